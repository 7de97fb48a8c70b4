/* SPDX-License-Identifier: MIT */
/* test_random.c - random sequences of register accesses, the same ones in each run, with the oracles of any.h */
#include "t.h"

#include "transport/any.h"

#define RUNS 1500
#define LONGEST 400

static uint64_t seed;

static uint32_t next(void)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33);
}

static void runs(enum board_kind kind)
{
	uint8_t data[LONGEST];

	for (unsigned int i = 0; i < RUNS; i++) {
		size_t size;

		seed = i * 1000003ull + kind;
		size = next() % LONGEST;
		for (size_t k = 0; k < size; k++)
			data[k] = (uint8_t)next();
		any_run(kind, data, size);
	}
}

static void mmio(void)
{
	runs(BOARD_MMIO);
	runs(BOARD_MMIO_FD);
}

static void pci(void)
{
	runs(BOARD_PCI_INTX);
	runs(BOARD_PCI_MSIX);
	runs(BOARD_PCI_FD);
}

static const struct t_case cases[] = {
	{"mmio", mmio},
	{"pci", pci},
};
T_MAIN(cases)
