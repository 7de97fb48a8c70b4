/* SPDX-License-Identifier: MIT */
/* event-packed.pml - notification in a packed ring: DISABLE while at work, DESC with offset and wrap counter to sleep.
 *
 * As event-idx.pml, for vq_packed_rearm() and dq_packed_publish() and the other
 * way round. The position is a slot and a wrap counter; a slot is available
 * when its flag has the value of the round. A batch's first flag is stored
 * last. The event area is one word: mode, offset, wrap counter.
 *
 * Each of these makes the model wrong, and Spin must find it out:
 *   NO_PRODUCER_FENCE NO_CONSUMER_FENCE NO_RECHECK EQUALITY NO_WRAP STALE_EVENT
 */
#define NUM 3
#define TOTAL 8
#define DISABLE 1
#define DESC 2

bit avail[NUM];				/* shared: written by the producer */
byte mode, off;				/* shared: written by the consumer, as one word */
bit wrap;
chan avail_buf = [3] of { byte, bit };	/* stores on their way there */
chan event_buf = [3] of { byte, byte, bit };
bool signal, asleep, producer_done;
byte made, taken;			/* counted, for the producer's room and the claim */

active proctype drain()
{
	byte a, b;
	bit w;
end:	do
	:: atomic { avail_buf ? a, w -> avail[a] = w }
	:: atomic { event_buf ? a, b, w -> mode = a; off = b; wrap = w }
	od
}

active proctype producer()
{
	byte pos = 0, batch, first, m, e;
	bit round = 1, first_round, w;
	short distance;

	do
	:: made < TOTAL ->
		if
		:: batch = 1
		:: made + 2 <= TOTAL -> batch = 2
		:: made + 3 <= TOTAL -> batch = 3	/* a full ring at once */
		fi;
		made - taken + batch <= NUM;		/* room */
		first = pos;
		first_round = round;
		made = made + batch;
		d_step {
			distance = batch;
			do
			:: distance > 0 ->
				if
				:: pos != first || round != first_round -> avail_buf ! pos, round
				:: else
				fi;
				pos++;
				if
				:: pos == NUM -> pos = 0; round = 1 - round
				:: else
				fi;
				distance--
			:: else -> break
			od
		}
		avail_buf ! first, first_round;
#ifndef NO_PRODUCER_FENCE
		empty(avail_buf);
#endif
		atomic { m = mode; e = off; w = wrap };	/* one load */
		distance = pos - e - 1;
#ifndef NO_WRAP
		if
		:: w != round -> distance = distance + NUM
		:: else
		fi;
#endif
		if
		:: m == DISABLE
#ifdef EQUALITY
		:: m == DESC && distance == 0 -> signal = true
		:: m == DESC && distance != 0
#else
		:: m == DESC && distance >= 0 && distance < batch -> signal = true
		:: m == DESC && !(distance >= 0 && distance < batch)
#endif
		:: m == 0 -> signal = true
		fi
	:: else -> break
	od;
	producer_done = true
}

active proctype consumer()
{
	byte pos = 0;
	bit round = 1;

	do
	:: event_buf ! DISABLE, 0, 0;
	   do
	   :: avail[pos] == round ->
		atomic {
			pos++;
			if
			:: pos == NUM -> pos = 0; round = 1 - round
			:: else
			fi;
			taken++
		}
	   :: avail[pos] != round -> break
	   od;
#ifdef STALE_EVENT
	   event_buf ! DESC, 0, 1;	/* a place that was passed in the first round */
#else
	   event_buf ! DESC, pos, round;
#endif
#ifndef NO_CONSUMER_FENCE
	   empty(event_buf);
#endif
#ifndef NO_RECHECK
	   if
	   :: avail[pos] == round -> goto again
	   :: else
	   fi;
#endif
	   asleep = true;
end:	   atomic { signal -> signal = false; asleep = false };
again:	   skip
	od
}

ltl never_lost { [] !(producer_done && asleep && !signal && len(avail_buf) == 0 && made != taken) }
