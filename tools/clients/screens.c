/* Draws screens in a guest, and tells on the host whether a screen dump is one of them.
 *
 *   screens draw SECONDS     shows each screen for so long, by the first framebuffer device
 *   screens number FILE.ppm  prints the screen's number, or the pixels that differ from the nearest
 */
#include <fcntl.h>
#include <linux/fb.h>
#include <linux/kd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define WIDTH 640
#define HEIGHT 480
#define SCREENS 6
#define NEED(what) ((what) ? (void)0 : (perror(#what), exit(1)))

static uint32_t pixel(uint32_t x, uint32_t y, uint32_t screen)
{
	return ((x * 7 + screen * 40) & 255) << 16 | ((y * 5) & 255) << 8 | (((x ^ y) + screen) & 255);
}

static void draw(unsigned seconds)
{
	static uint32_t row[WIDTH];
	struct fb_var_screeninfo shape;
	struct fb_fix_screeninfo layout;
	int console = open("/dev/tty0", O_RDWR | O_CLOEXEC);
	int screen_fd = open("/dev/fb0", O_RDWR | O_CLOEXEC);

	NEED(console >= 0 && screen_fd >= 0);
	/* The text console draws nothing meanwhile. */
	NEED(ioctl(console, KDSETMODE, KD_GRAPHICS) == 0);
	NEED(ioctl(screen_fd, FBIOGET_VSCREENINFO, &shape) == 0);
	NEED(ioctl(screen_fd, FBIOGET_FSCREENINFO, &layout) == 0);
	NEED(shape.xres == WIDTH && shape.yres == HEIGHT && shape.bits_per_pixel == 32);
	for (uint32_t screen = 0; screen < SCREENS; screen++) {
		for (uint32_t y = 0; y < HEIGHT; y++) {
			for (uint32_t x = 0; x < WIDTH; x++)
				row[x] = pixel(x, y, screen);
			NEED(pwrite(screen_fd, row, sizeof(row), (off_t)y * layout.line_length) ==
			     sizeof(row));
		}
		printf("screen %u of %d is drawn\n", screen, SCREENS);
		fflush(stdout);
		sleep(seconds);
	}
}

static unsigned differences(const unsigned char *dump, uint32_t screen)
{
	unsigned wrong = 0;

	for (uint32_t at = 0; at < WIDTH * HEIGHT; at++) {
		uint32_t shown = (uint32_t)dump[at * 3] << 16 | dump[at * 3 + 1] << 8 | dump[at * 3 + 2];

		wrong += shown != pixel(at % WIDTH, at / WIDTH, screen);
	}
	return wrong;
}

static int number(const char *path)
{
	static unsigned char dump[WIDTH * HEIGHT * 3];
	FILE *file = fopen(path, "rb");
	int width = 0, height = 0, most = 0;
	unsigned least = ~0u;

	if (!file || fscanf(file, "P6 %d %d %d", &width, &height, &most) != 3 || width != WIDTH ||
	    height != HEIGHT || fgetc(file) == EOF || fread(dump, sizeof(dump), 1, file) != 1) {
		printf("no picture of %dx%d\n", WIDTH, HEIGHT);
		return 1;
	}
	for (uint32_t screen = 0; screen < SCREENS; screen++) {
		unsigned wrong = differences(dump, screen);

		least = wrong < least ? wrong : least;
		if (wrong == 0) {
			printf("%u\n", screen);
			return 0;
		}
	}
	printf("%u pixels differ from the nearest screen\n", least);
	return 1;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "number"))
		return number(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "draw"))
		draw((unsigned)atoi(argv[2]));
	return 0;
}
