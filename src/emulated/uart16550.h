/* SPDX-License-Identifier: MIT */
/* uart16550.h - the serial port of a PC, the National 16550A
 *
 * All registers, both FIFOs, interrupts, modem lines and the loop-back mode.
 * The line is as fast as whoever takes the bytes: the transmitter reports
 * itself empty while there is room in its buffer, and full when nobody takes
 * what is there, so a guest waits instead of losing output.
 *
 * Any thread may call any function; a lock of the port's own orders them.
 */
#ifndef EMULATED_UART16550_H
#define EMULATED_UART16550_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UART_PORTS 8
#define UART_FIFO 16
#define UART_OUTPUT 4096

/**
 * struct uart16550_ops - what the port tells its board; both with the port's lock held
 * @irq:    the level of the interrupt line changed
 * @output: there was nothing for uart16550_take() and now there is
 * @room:   uart16550_give() may be of use again after it took less than it was given
 */
struct uart16550_ops {
	void (*irq)(void *arg, bool level);
	void (*output)(void *arg);
	void (*room)(void *arg);
};

/**
 * struct uart16550
 * @ier, @lcr, @mcr, @scratch, @divisor, @fcr: registers as written
 * @msr_delta: the low four bits of the modem status register
 * @lines:     the high four bits as last reported, to find the next delta
 * @errors:    bits of the line status register that a read clears
 * @thr_empty: the transmitter became empty and nobody was told yet
 * @refused:   uart16550_give() took less than it was given
 * @level:     of the interrupt line
 * @rx:        received, @rx_len bytes from @rx_start on, round
 * @tx:        to be sent, the same
 */
struct uart16550 {
	const struct uart16550_ops *ops;
	void *arg;
	pthread_mutex_t lock;
	uint8_t ier, lcr, mcr, scratch, fcr, msr_delta, lines, errors;
	uint16_t divisor;
	bool thr_empty, refused, level;
	unsigned int rx_start, rx_len, tx_start, tx_len;
	uint8_t rx[UART_FIFO];
	uint8_t tx[UART_OUTPUT];
};

void uart16550_init(struct uart16550 *u, const struct uart16550_ops *ops, void *arg);
void uart16550_destroy(struct uart16550 *u);

/** uart16550_read() - of register @reg, 0 to 7 */
uint8_t uart16550_read(struct uart16550 *u, unsigned int reg);
void uart16550_write(struct uart16550 *u, unsigned int reg, uint8_t value);

/** uart16550_give() - bytes arrive on the line; returns how many the receiver has room for */
size_t uart16550_give(struct uart16550 *u, const void *data, size_t len);
/** uart16550_take() - bytes that were sent, at most @len */
size_t uart16550_take(struct uart16550 *u, void *data, size_t len);

#endif
