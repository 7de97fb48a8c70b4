/* SPDX-License-Identifier: MIT */
/* bench.h - the parts of `sluice bench` */
#ifndef CLI_BENCH_H
#define CLI_BENCH_H

/* Like cmd_X() of cmd.h; argv[0] is the part's name. */
int bench_blk(int argc, char **argv);
int bench_ring(int argc, char **argv);

#endif
