/* SPDX-License-Identifier: MIT */
/* rtc.c - the clock of a PC */
#include "emulated/rtc.h"

#include <stdbool.h>
#include <time.h>

enum { SECOND, MINUTE = 2, HOUR = 4, WEEKDAY = 6, DAY, MONTH, YEAR, REG_A, REG_B, REG_C, REG_D, CENTURY = 0x32 };

#define A_DEFAULT 0x26 /* 32768 Hz, 1024 interrupts a second if there were any */
#define B_24H 0x02
#define B_BINARY 0x04
#define B_SET 0x80 /* the guest is writing the time: it stands still */
#define D_VALID 0x80
#define HOUR_PM 0x80

static uint8_t encode(const struct rtc *r, int n)
{
	return (uint8_t)(r->ram[REG_B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}

static int decode(const struct rtc *r, uint8_t reg)
{
	uint8_t v = r->ram[reg];

	return r->ram[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
	if (r->ram[REG_B] & B_24H)
		return encode(r, hour);
	return encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *r)
{
	struct rtc plain = *r;

	if (r->ram[REG_B] & B_24H)
		return decode(r, HOUR);
	plain.ram[HOUR] &= (uint8_t)~HOUR_PM;
	return decode(&plain, HOUR) % 12 + (r->ram[HOUR] & HOUR_PM ? 12 : 0);
}

static void load_time(struct rtc *r)
{
	time_t now = time(NULL) + r->shift;
	struct tm tm;

	if (!gmtime_r(&now, &tm))
		return;
	r->ram[SECOND] = encode(r, tm.tm_sec % 60);
	r->ram[MINUTE] = encode(r, tm.tm_min);
	r->ram[HOUR] = encode_hour(r, tm.tm_hour);
	r->ram[WEEKDAY] = encode(r, tm.tm_wday + 1);
	r->ram[DAY] = encode(r, tm.tm_mday);
	r->ram[MONTH] = encode(r, tm.tm_mon + 1);
	r->ram[YEAR] = encode(r, tm.tm_year % 100);
	r->ram[CENTURY] = encode(r, (tm.tm_year + 1900) / 100 % 100);
}

/* The guest set the registers; nonsense in them makes a nonsensical time and no more. */
static void store_time(struct rtc *r)
{
	struct tm tm = {
		.tm_sec = decode(r, SECOND), .tm_min = decode(r, MINUTE), .tm_hour = decode_hour(r),
		.tm_mday = decode(r, DAY), .tm_mon = decode(r, MONTH) - 1,
		.tm_year = decode(r, CENTURY) * 100 + decode(r, YEAR) - 1900,
	};

	r->shift = (int64_t)timegm(&tm) - (int64_t)time(NULL);
}

static bool is_time(unsigned int reg)
{
	return reg <= YEAR ? !(reg & 1) || reg >= WEEKDAY : reg == CENTURY;
}

void rtc_init(struct rtc *r)
{
	*r = (struct rtc){.ram = {[REG_A] = A_DEFAULT, [REG_B] = B_24H, [REG_D] = D_VALID}};
}

uint8_t rtc_read(struct rtc *r, unsigned int port)
{
	if (!port) /* cannot be read on a PC */
		return 0xff;
	if (is_time(r->index) && !(r->ram[REG_B] & B_SET))
		load_time(r);
	return r->ram[r->index];
}

void rtc_write(struct rtc *r, unsigned int port, uint8_t value)
{
	uint8_t was = r->ram[REG_B];

	if (!port) {
		r->index = value & (RTC_SIZE - 1);
		return;
	}
	switch (r->index) {
	case REG_A:
		r->ram[REG_A] = value & 0x7f; /* never "update in progress" */
		return;
	case REG_B:
		if (!(was & B_SET) && value & B_SET)
			load_time(r);
		r->ram[REG_B] = value;
		if (was & B_SET && !(value & B_SET))
			store_time(r);
		return;
	case REG_C:
	case REG_D:
		return;
	default:
		if (is_time(r->index) && !(was & B_SET)) { /* a single register while the clock runs */
			load_time(r);
			r->ram[r->index] = value;
			store_time(r);
			return;
		}
		r->ram[r->index] = value;
	}
}
