/* SPDX-License-Identifier: MIT */
/* event-idx.pml - notification with EVENT_IDX in a split ring: no wake-up is ever lost.
 *
 * One direction; the other is the same code with the names exchanged.
 *   producer: the driver's publish (dq_split_publish), or the device's (vq_split_publish)
 *   consumer: the device's pop and rearm, or the driver's get and rearm
 * The fences are pair C for the one and pair D for the other (src/ring/wire.h).
 *
 * Memory is that of a processor with store buffers: a store is seen by its own
 * side at once and by the other when the buffer drains, in order, at any time.
 * A fence waits until it has drained. Indices run modulo M, above the RING
 * entries, so that they wrap while the ring is in use.
 *
 * Each of these makes the model wrong, and Spin must find it out:
 *   NO_PRODUCER_FENCE NO_CONSUMER_FENCE NO_RECHECK EQUALITY
 */
#define M 8
#define RING 3
#define TOTAL 7
#define AHEAD(a, b) (((a) - (b) + M) % M)

byte idx, event;			/* shared: written by producer, by consumer */
chan idx_buf = [2] of { byte };		/* stores on their way there */
chan event_buf = [2] of { byte };
bool signal, asleep, producer_done;
byte taken;				/* consumer's position; the producer knows it through the ring's other half */

active proctype drain()
{
	byte v;
end:	do
	:: atomic { idx_buf ? v -> idx = v }
	:: atomic { event_buf ? v -> event = v }
	od
}

active proctype producer()
{
	byte old = 0, now = 0, batch, e, total = 0;

	do
	:: total < TOTAL ->
		if
		:: batch = 1
		:: total + 2 <= TOTAL -> batch = 2
		fi;
		AHEAD(now, taken) + batch <= RING;	/* room */
		old = now;
		now = (now + batch) % M;
		total = total + batch;
		idx_buf ! now;
#ifndef NO_PRODUCER_FENCE
		empty(idx_buf);
#endif
		e = event;
		if
#ifdef EQUALITY
		:: AHEAD(now, 1) == e -> signal = true
#else
		:: AHEAD(AHEAD(now, e), 1) < AHEAD(now, old) -> signal = true
#endif
		:: else
		fi
	:: else -> break
	od;
	producer_done = true
}

active proctype consumer()
{
	byte seen;

	do
	:: seen = idx;
	   do
	   :: taken != seen -> taken = (taken + 1) % M
	   :: else -> break
	   od;
	   event_buf ! taken;
#ifndef NO_CONSUMER_FENCE
	   empty(event_buf);
#endif
#ifndef NO_RECHECK
	   seen = idx;
	   if
	   :: seen != taken -> goto again
	   :: else
	   fi;
#endif
	   asleep = true;
end:	   atomic { signal -> signal = false; asleep = false };
again:	   skip
	od
}

ltl never_lost { [] !(producer_done && asleep && !signal && len(idx_buf) == 0 && idx != taken) }
