/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What the two halves of gup-probe share: the ways of access, and what they answer. */
#ifndef GUP_PROBE_H
#define GUP_PROBE_H

#include <stddef.h>

#define PAGE 4096L
#define NOT_TRIED (-4000L) /* below every errno */
#define WRONG_BYTES (-4001L)

struct access {
	const char *name;
	/* The bytes moved (0 where none are), or minus an errno, or one of the above. */
	long (*try)(unsigned char *map);
	long complete; /* what it returns when all of it worked */
	int stores;    /* into the mapping from here, so not for a read-only one */
};

extern const struct access accesses[];
extern const size_t access_count;

/* The file for the O_DIRECT accesses, or NULL. */
extern const char *direct_path;

#endif
