/* SPDX-License-Identifier: MIT */
/* t.h - the least a C test needs: named cases, checks that say where they failed.
 *
 * A test program has a table of cases and calls T_MAIN(cases). It prints one
 * line a case, "ok NAME" or "FAIL NAME", and exits 1 when a case failed and
 * 77 when all of them were skipped. With arguments it runs only the named cases.
 */
#ifndef T_H
#define T_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct t_case {
	const char *name;
	void (*fn)(void);
};

static unsigned int t_failures;
static const char *t_skipped;

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s: CHECK(%s)\n", __FILE__, __LINE__, __func__, #cond);                \
			t_failures++;                                                                                  \
		}                                                                                                      \
	} while (0)

/* like CHECK, but the case cannot go on */
#define REQUIRE(cond)                                                                                                  \
	do {                                                                                                           \
		if (!(cond)) {                                                                                         \
			fprintf(stderr, "%s:%d: %s: REQUIRE(%s) errno %d\n", __FILE__, __LINE__, __func__, #cond, errno); \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#define CHECK_EQ(a, b)                                                                                                 \
	do {                                                                                                           \
		long long t_a = (long long)(a), t_b = (long long)(b);                                                  \
		if (t_a != t_b) {                                                                                      \
			fprintf(stderr, "%s:%d: %s: %s is %lld, expected %s = %lld\n", __FILE__, __LINE__, __func__,   \
				#a, t_a, #b, t_b);                                                                     \
			t_failures++;                                                                                  \
		}                                                                                                      \
	} while (0)

#define SKIP(why)                                                                                                      \
	do {                                                                                                           \
		t_skipped = (why);                                                                                     \
		return;                                                                                                \
	} while (0)

static inline int t_run(const struct t_case *cases, unsigned int n, int argc, char **argv)
{
	unsigned int failed = 0, ran = 0, skipped = 0;

	for (unsigned int i = 0; i < n; i++) {
		bool wanted = argc < 2;

		for (int a = 1; a < argc; a++)
			wanted |= !strcmp(argv[a], cases[i].name);
		if (!wanted)
			continue;
		t_failures = 0;
		t_skipped = NULL;
		cases[i].fn();
		ran++;
		if (t_failures) {
			failed++;
			printf("FAIL %s\n", cases[i].name);
		} else if (t_skipped) {
			skipped++;
			printf("skip %s: %s\n", cases[i].name, t_skipped);
		} else {
			printf("ok %s\n", cases[i].name);
		}
		fflush(stdout);
	}
	if (failed)
		return 1;
	return ran && ran == skipped ? 77 : 0;
}

#define T_MAIN(cases)                                                                                                  \
	int main(int argc, char **argv)                                                                                \
	{                                                                                                              \
		return t_run(cases, sizeof(cases) / sizeof((cases)[0]), argc, argv);                                   \
	}

#endif
