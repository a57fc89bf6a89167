/* Signals that are sent to driftheap for the program: each arrives, and once. Prints "ready", then waits
 * until all have come. Usage: signals. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* In the order in which the test sends them. */
static const int all[] = { SIGALRM, SIGVTALRM, SIGPROF, SIGXCPU, SIGPWR, SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 };
#define COUNT (sizeof(all) / sizeof(*all))

static volatile sig_atomic_t came[65];

static void count(int signal)
{
	came[signal]++;
}

static void rest(long ms)
{
	nanosleep(&(struct timespec){ ms / 1000, ms % 1000 * 1000000 }, NULL);
}

int main(void)
{
	int bad = 0, missing = 1;

	for (unsigned i = 0; i < COUNT; i++)
		signal(all[i], count);
	printf("ready\n");
	fflush(stdout);
	for (int turn = 0; missing && turn < 2000; turn++) {
		rest(10);
		missing = 0;
		for (unsigned i = 0; i < COUNT; i++)
			missing += !came[all[i]];
	}
	/* Those that come twice. */
	rest(300);
	for (unsigned i = 0; i < COUNT; i++)
		if (came[all[i]] != 1) {
			printf("%s came %d times\n", strsignal(all[i]), (int)came[all[i]]);
			bad = 1;
		}
	if (!bad)
		printf("ok\n");
	return bad;
}
