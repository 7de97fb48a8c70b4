/* SPDX-License-Identifier: MIT */
/* uart16550.c - the serial port of a PC */
#include "emulated/uart16550.h"

/* registers; with LCR_DLAB the first two are the divisor */
enum { RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR };

#define IER_RX 0x01
#define IER_THR 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THR 0x02
#define IIR_RX 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFOS 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04

#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08 /* on a PC: connects the interrupt line */
#define MCR_LOOP 0x10

#define LSR_DATA 0x01
#define LSR_OVERRUN 0x02
#define LSR_THR_EMPTY 0x20
#define LSR_EMPTY 0x40

#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

/* The transmitter is "empty" while a whole FIFO of bytes fits. */
static bool can_send(const struct uart16550 *u)
{
	return u->tx_len + UART_FIFO <= UART_OUTPUT;
}

static unsigned int rx_capacity(const struct uart16550 *u)
{
	return u->fcr & FCR_ENABLE ? UART_FIFO : 1;
}

static unsigned int rx_trigger(const struct uart16550 *u)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return u->fcr & FCR_ENABLE ? levels[u->fcr >> 6] : 1;
}

/* The other end is always there and ready; in loop-back mode it is ourselves. */
static uint8_t modem_lines(const struct uart16550 *u)
{
	if (!(u->mcr & MCR_LOOP))
		return MSR_CTS | MSR_DSR | MSR_DCD;
	return (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
	       (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

/* What the interrupt identification register says, the most urgent cause first. */
static uint8_t cause(const struct uart16550 *u)
{
	if (u->ier & IER_LINE && u->errors)
		return IIR_LINE;
	if (u->ier & IER_RX && u->rx_len)
		return u->rx_len >= rx_trigger(u) ? IIR_RX : IIR_TIMEOUT;
	if (u->ier & IER_THR && u->thr_empty)
		return IIR_THR;
	if (u->ier & IER_MODEM && u->msr_delta)
		return IIR_MODEM;
	return IIR_NONE;
}

static void update(struct uart16550 *u)
{
	bool level = cause(u) != IIR_NONE && u->mcr & MCR_OUT2 && !(u->mcr & MCR_LOOP);

	if (level != u->level) {
		u->level = level;
		u->ops->irq(u->arg, level);
	}
}

static void receive(struct uart16550 *u, uint8_t byte)
{
	if (u->rx_len == rx_capacity(u)) {
		u->errors |= LSR_OVERRUN;
		return;
	}
	u->rx[(u->rx_start + u->rx_len++) % UART_FIFO] = byte;
}

static void set_mcr(struct uart16550 *u, uint8_t value)
{
	uint8_t lines;

	u->mcr = value & 0x1f;
	lines = modem_lines(u);
	u->msr_delta |= ((lines ^ u->lines) >> 4 & 0x0b) | (u->lines & ~lines & MSR_RI ? 0x04 : 0); /* RI: its end counts */
	u->lines = lines;
}

static void set_fcr(struct uart16550 *u, uint8_t value)
{
	if (((value ^ u->fcr) & FCR_ENABLE) || value & FCR_CLEAR_RX)
		u->rx_len = 0;
	if (value & FCR_CLEAR_TX) /* what is in our buffer beyond a FIFO has long been sent, as far as the guest knows */
		u->thr_empty = true;
	u->fcr = value & FCR_ENABLE ? value & 0xc9 : 0;
}

static void transmit(struct uart16550 *u, uint8_t byte)
{
	/* The line goes down for a moment: its edge is what an interrupt controller sees. */
	u->thr_empty = false;
	update(u);
	if (u->mcr & MCR_LOOP) {
		receive(u, byte);
	} else if (u->tx_len < UART_OUTPUT) {
		u->tx[(u->tx_start + u->tx_len++) % UART_OUTPUT] = byte;
		if (u->tx_len == 1)
			u->ops->output(u->arg);
	}
	u->thr_empty = can_send(u);
}

static void write_locked(struct uart16550 *u, unsigned int reg, uint8_t value)
{
	switch (reg) {
	case RBR_THR:
		if (u->lcr & LCR_DLAB)
			u->divisor = (uint16_t)((u->divisor & 0xff00) | value);
		else
			transmit(u, value);
		break;
	case IER:
		if (u->lcr & LCR_DLAB) {
			u->divisor = (uint16_t)((u->divisor & 0xff) | value << 8);
			break;
		}
		if (value & ~u->ier & IER_THR) /* switched on while empty: told at once */
			u->thr_empty = can_send(u);
		u->ier = value & 0x0f;
		break;
	case IIR_FCR:
		set_fcr(u, value);
		break;
	case LCR:
		u->lcr = value;
		break;
	case MCR:
		set_mcr(u, value);
		break;
	case SCR:
		u->scratch = value;
		break;
	default: /* LSR and MSR: factory tests only */
		break;
	}
}

static uint8_t read_data(struct uart16550 *u)
{
	uint8_t byte = 0;

	if (u->rx_len) {
		byte = u->rx[u->rx_start];
		u->rx_start = (u->rx_start + 1) % UART_FIFO;
		u->rx_len--;
	}
	if (u->refused && !u->rx_len) {
		u->refused = false;
		u->ops->room(u->arg);
	}
	return byte;
}

static uint8_t read_locked(struct uart16550 *u, unsigned int reg)
{
	uint8_t value;

	switch (reg) {
	case RBR_THR:
		return u->lcr & LCR_DLAB ? (uint8_t)u->divisor : read_data(u);
	case IER:
		return u->lcr & LCR_DLAB ? (uint8_t)(u->divisor >> 8) : u->ier;
	case IIR_FCR:
		value = cause(u);
		if (value == IIR_THR)
			u->thr_empty = false;
		return value | (u->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
	case LCR:
		return u->lcr;
	case MCR:
		return u->mcr;
	case LSR:
		value = (u->rx_len ? LSR_DATA : 0) | u->errors | (can_send(u) ? LSR_THR_EMPTY | LSR_EMPTY : 0);
		u->errors = 0;
		return value;
	case MSR:
		value = u->lines | u->msr_delta;
		u->msr_delta = 0;
		return value;
	default:
		return u->scratch;
	}
}

void uart16550_init(struct uart16550 *u, const struct uart16550_ops *ops, void *arg)
{
	*u = (struct uart16550){.ops = ops, .arg = arg, .divisor = 12, .lcr = 3};
	u->lines = modem_lines(u);
	pthread_mutex_init(&u->lock, NULL);
}

void uart16550_destroy(struct uart16550 *u)
{
	pthread_mutex_destroy(&u->lock);
}

uint8_t uart16550_read(struct uart16550 *u, unsigned int reg)
{
	uint8_t value;

	pthread_mutex_lock(&u->lock);
	value = read_locked(u, reg % UART_PORTS);
	update(u);
	pthread_mutex_unlock(&u->lock);
	return value;
}

void uart16550_write(struct uart16550 *u, unsigned int reg, uint8_t value)
{
	pthread_mutex_lock(&u->lock);
	write_locked(u, reg % UART_PORTS, value);
	update(u);
	pthread_mutex_unlock(&u->lock);
}

size_t uart16550_give(struct uart16550 *u, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	size_t n = 0;

	pthread_mutex_lock(&u->lock);
	while (!(u->mcr & MCR_LOOP) && n < len && u->rx_len < rx_capacity(u))
		receive(u, bytes[n++]);
	if (u->mcr & MCR_LOOP) /* the receiver is cut off from the line */
		n = len;
	u->refused = n < len;
	update(u);
	pthread_mutex_unlock(&u->lock);
	return n;
}

size_t uart16550_take(struct uart16550 *u, void *data, size_t len)
{
	uint8_t *bytes = data;
	size_t n;
	bool could;

	pthread_mutex_lock(&u->lock);
	could = can_send(u);
	for (n = 0; n < len && u->tx_len; n++, u->tx_len--) {
		bytes[n] = u->tx[u->tx_start];
		u->tx_start = (u->tx_start + 1) % UART_OUTPUT;
	}
	if (!could && can_send(u))
		u->thr_empty = true;
	update(u);
	pthread_mutex_unlock(&u->lock);
	return n;
}
