/* SPDX-License-Identifier: MIT */
/* test_uart.c - the serial port and the clock, register by register */
#include <time.h>

#include "emulated/rtc.h"
#include "emulated/uart16550.h"
#include "t.h"

static struct {
	struct uart16550 u;
	unsigned int edges, outputs, rooms;
	bool level;
} p;

static void on_irq(void *arg, bool level)
{
	(void)arg;
	p.edges += level;
	p.level = level;
}

static void on_output(void *arg)
{
	(void)arg;
	p.outputs++;
}

static void on_room(void *arg)
{
	(void)arg;
	p.rooms++;
}

static const struct uart16550_ops ops = {.irq = on_irq, .output = on_output, .room = on_room};

static void fresh(void)
{
	memset(&p, 0, sizeof(p));
	uart16550_init(&p.u, &ops, NULL);
}

static uint8_t get(unsigned int reg)
{
	return uart16550_read(&p.u, reg);
}

static void set(unsigned int reg, uint8_t value)
{
	uart16550_write(&p.u, reg, value);
}

static void registers(void)
{
	fresh();
	set(7, 0xa5);
	CHECK_EQ(get(7), 0xa5);
	set(3, 0x83);
	set(0, 1);
	set(1, 2);
	CHECK_EQ(get(0), 1);
	CHECK_EQ(get(1), 2);
	set(3, 3);
	CHECK_EQ(get(3), 3);
	CHECK_EQ(get(1), 0);
	set(1, 0xff);
	CHECK_EQ(get(1), 0x0f);
	set(4, 0xff);
	CHECK_EQ(get(4), 0x1f);
	set(4, 0);
	CHECK_EQ(get(5), 0x60);
	CHECK_EQ(get(6) & 0xf0, 0xb0);
	CHECK_EQ(get(8), get(0)); /* only eight of them */
}

/* As Linux tells a 16550A from its ancestors. */
static void fifo_is_found(void)
{
	fresh();
	CHECK_EQ(get(2) & 0xc0, 0);
	set(2, 1);
	CHECK_EQ(get(2) & 0xc0, 0xc0);
	set(2, 0);
	CHECK_EQ(get(2) & 0xc0, 0);
}

static void transmitter(void)
{
	char out[16];

	fresh();
	set(4, 8);
	CHECK_EQ(p.level, false);
	set(1, 2); /* told at once that it is empty */
	CHECK_EQ(p.level, true);
	CHECK_EQ(get(2) & 0x0f, 2);
	CHECK_EQ(p.level, false); /* reading the cause takes it back */
	CHECK_EQ(get(2) & 0x0f, 1);
	set(0, 'a');
	set(0, 'b');
	CHECK_EQ(p.edges, 3); /* one edge for each byte, too */
	CHECK_EQ(p.outputs, 1);
	CHECK_EQ(uart16550_take(&p.u, out, sizeof(out)), 2);
	CHECK(!memcmp(out, "ab", 2));
	CHECK_EQ(uart16550_take(&p.u, out, sizeof(out)), 0);
}

/* A guest that waits for the transmitter loses nothing when nobody reads. */
static void back_pressure(void)
{
	unsigned int sent = 0, got = 0;
	char out[100];
	size_t n;

	fresh();
	set(4, 8);
	set(1, 2);
	for (; get(5) & 0x20 && sent < 100000; sent++)
		set(0, (uint8_t)sent);
	CHECK(sent > 1000 && sent <= UART_OUTPUT);
	CHECK_EQ(get(5) & 0x60, 0);
	get(2);
	CHECK_EQ(p.level, false);
	while ((n = uart16550_take(&p.u, out, sizeof(out))) > 0)
		for (size_t i = 0; i < n; i++)
			CHECK_EQ((uint8_t)out[i], (uint8_t)got++);
	CHECK_EQ(got, sent);
	CHECK_EQ(p.level, true); /* room again */
	for (unsigned int i = 0; i < 2 * UART_OUTPUT; i++) /* and one that does not wait does no harm */
		set(0, 'x');
	CHECK_EQ(p.u.tx_len, UART_OUTPUT);
}

static void receiver(void)
{
	fresh();
	CHECK_EQ(uart16550_give(&p.u, "abc", 3), 1); /* without FIFO */
	CHECK_EQ(get(5) & 1, 1);
	CHECK_EQ(get(0), 'a');
	CHECK_EQ(p.rooms, 1);
	CHECK_EQ(get(5) & 1, 0);
	CHECK_EQ(get(0), 0);
	set(2, 0xc1); /* FIFO, trigger at 14 */
	set(4, 8);
	set(1, 1);
	CHECK_EQ(uart16550_give(&p.u, "0123456789abcdefg", 17), 16);
	CHECK_EQ(p.level, true);
	CHECK_EQ(get(2) & 0x0f, 4);
	for (int i = 0; i < 5; i++)
		get(0);
	CHECK_EQ(get(2) & 0x0f, 0x0c); /* below the trigger: the time is over */
	for (int i = 5; i < 16; i++)
		CHECK_EQ(get(0), "0123456789abcdef"[i]);
	CHECK_EQ(p.level, false);
	CHECK_EQ(p.rooms, 2);
	uart16550_give(&p.u, "xyz", 3);
	set(2, 0xc3);
	CHECK_EQ(get(5) & 1, 0); /* cleared */
}

static void loop_back(void)
{
	char out[4];

	fresh();
	set(2, 1);
	set(4, 0x18);
	set(1, 1);
	set(0, 'q');
	CHECK_EQ(uart16550_take(&p.u, out, sizeof(out)), 0);
	CHECK_EQ(p.level, false); /* the pins are cut off, the interrupt with them */
	CHECK_EQ(get(0), 'q');
	CHECK_EQ(get(6) & 0xf0, 0x80);
	set(4, 0x1a);
	CHECK_EQ(get(6), 0x90 | 0x01);
	CHECK_EQ(get(6), 0x90); /* the delta was read */
	CHECK_EQ(uart16550_give(&p.u, "z", 1), 1);
	CHECK_EQ(get(5) & 1, 0);
	for (int i = 0; i < 17; i++)
		set(0, (uint8_t)i);
	CHECK_EQ(get(5) & 2, 2); /* overrun */
	CHECK_EQ(get(5) & 2, 0);
}

static void out2_connects_the_interrupt(void)
{
	fresh();
	set(1, 2);
	CHECK_EQ(p.level, false);
	set(4, 8);
	CHECK_EQ(p.level, true);
	set(4, 0);
	CHECK_EQ(p.level, false);
}

/* ---- the clock ---- */

static uint8_t clock_get(struct rtc *r, uint8_t reg)
{
	rtc_write(r, 0, reg);
	return rtc_read(r, 1);
}

static void clock_set(struct rtc *r, uint8_t reg, uint8_t value)
{
	rtc_write(r, 0, reg);
	rtc_write(r, 1, value);
}

static int bcd(uint8_t v)
{
	return (v >> 4) * 10 + (v & 15);
}

static time_t clock_time(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = bcd(clock_get(r, 0)), .tm_min = bcd(clock_get(r, 2)), .tm_hour = bcd(clock_get(r, 4)),
		.tm_mday = bcd(clock_get(r, 7)), .tm_mon = bcd(clock_get(r, 8)) - 1,
		.tm_year = bcd(clock_get(r, 0x32)) * 100 + bcd(clock_get(r, 9)) - 1900,
	};

	return timegm(&tm);
}

static void clock_runs(void)
{
	struct rtc r;
	time_t diff;

	rtc_init(&r);
	diff = clock_time(&r) - time(NULL);
	CHECK(diff >= -70 && diff <= 70); /* read over the end of a minute */
	CHECK_EQ(clock_get(&r, 0x0a) & 0x80, 0);
	CHECK_EQ(clock_get(&r, 0x0d), 0x80);
	CHECK_EQ(rtc_read(&r, 0), 0xff);
	clock_set(&r, 0x40, 0x5a); /* memory */
	CHECK_EQ(clock_get(&r, 0x40), 0x5a);
}

static void clock_is_set(void)
{
	struct rtc r;

	rtc_init(&r);
	clock_set(&r, 0x0b, 0x82);
	clock_set(&r, 0, 0x30);
	clock_set(&r, 2, 0x15);
	clock_set(&r, 4, 0x12);
	clock_set(&r, 7, 0x24);
	clock_set(&r, 8, 0x12);
	clock_set(&r, 9, 0x99);
	clock_set(&r, 0x32, 0x19);
	CHECK_EQ(clock_get(&r, 0), 0x30);
	clock_set(&r, 0x0b, 0x02);
	CHECK(clock_time(&r) - 946037730 <= 60); /* 1999-12-24 12:15:30 */
	clock_set(&r, 0x0b, 0x00); /* twelve hours */
	CHECK_EQ(clock_get(&r, 4), 0x92);
	clock_set(&r, 0x0b, 0x06); /* binary */
	CHECK_EQ(clock_get(&r, 9), 99);
	for (unsigned int reg = 0; reg < 256; reg++) /* nonsense does no harm */
		clock_set(&r, (uint8_t)reg, 0xff);
	for (unsigned int reg = 0; reg < 256; reg++)
		clock_get(&r, (uint8_t)reg);
}

static const struct t_case cases[] = {
	{"registers", registers}, {"fifo-is-found", fifo_is_found}, {"transmitter", transmitter},
	{"back-pressure", back_pressure}, {"receiver", receiver}, {"loop-back", loop_back},
	{"out2-connects-the-interrupt", out2_connects_the_interrupt}, {"clock-runs", clock_runs},
	{"clock-is-set", clock_is_set},
};
T_MAIN(cases)
