/* SPDX-License-Identifier: MIT */
/* rtc.h - the clock of a PC, the Motorola MC146818, and its battery-backed memory
 *
 * The time is the host's in UTC, plus what the guest changed it by. There are
 * no interrupts: nobody connects the line. Any thread, one at a time.
 */
#ifndef EMULATED_RTC_H
#define EMULATED_RTC_H

#include <stdint.h>

#define RTC_PORTS 2
#define RTC_SIZE 128

/**
 * struct rtc
 * @index: the register that the data port shows
 * @ram:   registers; those of the time are valid while the guest sets them
 * @shift: seconds that the guest's clock is ahead of the host's
 */
struct rtc {
	uint8_t index;
	uint8_t ram[RTC_SIZE];
	int64_t shift;
};

void rtc_init(struct rtc *r);
/** rtc_read(), rtc_write() - port 0 is the index, port 1 the data */
uint8_t rtc_read(struct rtc *r, unsigned int port);
void rtc_write(struct rtc *r, unsigned int port, uint8_t value);

#endif
