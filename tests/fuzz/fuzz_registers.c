/* SPDX-License-Identifier: MIT */
/* fuzz_registers.c - a driver made of fuzz input against the registers of virtio-mmio and virtio-pci
 *
 * SOURCES: tests/transport/any.c tests/transport/board.c src/base src/memory
 * SOURCES: src/ring src/virtio src/vhost src/transport src/driver
 *
 * The input is a little program: accesses of any width at any place, set-up
 * as it should be but for one step, bytes for rings, kicks, requests held and
 * released, memory maps replaced, changes of the configuration. Meanwhile a
 * second thread rewrites the rings (not with FUZZ_QUIET=1 in the environment,
 * which makes a run repeatable). The oracles are in tests/transport/any.h.
 */
#include <stdlib.h>

#include "transport/any.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!getenv("FUZZ_QUIET"))
		any_race();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size)
		any_run((enum board_kind)((data[0] >> 1) % BOARD_KINDS), data, size);
	return 0;
}
