/* The journal: a change is carried out once, however many owners die over it.
 *
 * A change of session s with ordinal n has the key (s, n).  Its owner appends what it is about to do
 * with the state before it, makes that durable, applies it, appends the outcome with the reply, makes
 * that durable, and replies.  The next owner takes back what has no outcome.  A shim sends again what
 * it has no reply for; a key with an outcome gets the recorded reply, any other runs afresh.
 *
 * There is at most one owner at a time, and none while another has the store open: that is I1 of
 * palace.pml, and here it is built in (one Owner process whose state dies with it).
 *
 * Worst cases on purpose: a state-before is one of the whole store, so that taking one change back
 * at the wrong moment takes others with it; a change is applied in two halves; replies may be lost
 * in a connection that is cut while its owner lives on.
 *
 * A power cut may take everything from the store that the journal did not make it write again: which
 * part of it is lost makes no difference to a recovery that asks the journal about each key.
 */

#ifndef NS
#define NS 2           /* sessions */
#endif
#define NL 2           /* changes of session 0, pipelined */
#ifndef NL1
#define NL1 1          /* and of session 1 */
#endif
#define NK (NS * NL)   /* keys; the last one is never used where session 1 has one line only */
#define LINES(s) (s == 0 -> NL : NL1)
#if NS == 1
#define WRITERS 2
#else
#define WRITERS (NL + NL1)
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#ifndef CUTS
#define CUTS 1         /* connections that end while their owner lives */
#endif

/* Outside of the state, but not in a breadth-first search, which can't have that. */
#ifdef SHORTEST
#define HIDDEN
#else
#define HIDDEN hidden
#endif

HIDDEN byte I8_exactly_once, I8_acknowledged_stays, I15_whole_changes, I16_order, I17_numbering;

/* A journal's word on a key. */
#define NONE   0
#define OP     1       /* begun: state before is kept, no outcome */
#define OUT    2       /* outcome and reply */
#define ABORTED 3      /* taken back */
#define FORGOT 4       /* the shim has said that it needs it no more */
#define CLOSED 5       /* only mutants: the change stands, its reply isn't recorded yet */

/* The owner. */
#define DOWN    0
#define RECOVER 1
#define SERVE   2

/* A job at the owner. */
#define NOJOB   0
#define QUEUED  1
#define RUNNING 2
#define WRITTEN 3      /* its outcome is appended: the reply waits for the disk */
#define KEPT    4      /* answered, but there was no connection */

/* A line at its shim. */
#define FRESH   0
#define UNSENT  1
#define SENT    2      /* may have run */
#define SETTLED 3

#define ACK     100    /* a header among the lines; what it says is added */
#define K(s, n) ((s) * NL + (n))
#define PART(k) ((store >> (3 * (k))) & 7)     /* 0 nothing, 1 half, 2 done, more: done again */

/* Durable, or in the page cache that SIGKILL leaves alone. */
byte  jr[NK];          /* the journal's last word on each key */
byte  jd[NK];          /* the same, as far as fsync went */
short image[NK];       /* the store before the change, in the key's last OP record */
short store;
bit   older;           /* the store is not what the journal's last closing record saw */

/* The owner's memory. */
byte up;
byte job[NK];
byte lane;             /* key + 1 of the change that the writer carries out */
byte step;             /* how far it is */
byte due[NS];          /* resent lines that are still to come, one bit for each ordinal */
byte risky[NS];        /* of them those that may have run */
byte next[NS];         /* the ordinal of the next new line */
byte undone;           /* in recovery: key + 1 that was taken back, its abort not yet written */

/* Connections, and the shims. */
bit  con[NS];
chan lines[NS] = [NL + 1] of { byte };
bit  reply[NK];        /* in the shim's buffer */
byte cs[NK];
byte asked[NS];
byte owed[NS];         /* promised by HELLO, still to be sent */
byte told[NS];         /* the last ack */

byte crashes, cuts;
HIDDEN byte i, h;

#ifdef M_NO_SESSION_ORDER
#define BUSY_BEFORE(s, n) false
#else
#define BUSY_BEFORE(s, n) ((n) > 0 && (job[K(s, 0)] == QUEUED || job[K(s, 0)] == RUNNING))
#endif
#define UPTO(s) (cs[K(s, 0)] != SETTLED -> 0 : (cs[K(s, 1)] != SETTLED -> 1 : 2))

#if NS == 1
#define ANY_OP (jr[0] == OP || jr[1] == OP)
#else
#define ANY_OP (jr[0] == OP || jr[1] == OP || jr[2] == OP || jr[3] == OP)
#endif

#ifdef M_JOBS_NOT_KNOWN
bit again[NK];         /* the second delivery of a line is a job of its own */
#define AGAIN(k) again[k]
#else
#define AGAIN(k) false
#endif

/* Does the journal know a reply for this resent line? */
#ifdef M_NO_LOOKUP
#define KNOWN(k) false
#else
#define KNOWN(k) (jr[k] == OUT)
#endif

inline close_lines(s) {
	do
	:: nempty(lines[s]) -> lines[s] ? _
	:: empty(lines[s]) -> break
	od
}

inline sync() {
	i = 0;
	do
	:: i < NK -> jd[i] = jr[i]; i++
	:: else -> break
	od;
	i = 0                    /* a d_step may not end in a loop */
}

inline lose_memory() {
	up = DOWN; lane = 0; step = 0; undone = 0;
	i = 0;
	do
	:: i < NK -> job[i] = NOJOB; i++
	:: else -> break
	od;
	h = 0;
	do
	:: h < NS ->
		con[h] = 0; due[h] = 0; risky[h] = 0; next[h] = 0; owed[h] = 0; told[h] = 0;
		close_lines(h);
		h++
	:: else -> break
	od;
	h = 0
}

/* A whole line is read, and numbered by counting: resent lines first. */
inline read_line(s, said, n, was) {
	if
	:: due[s] & 1 -> n = 0; was = risky[s] & 1; due[s] = due[s] & 254
	:: !(due[s] & 1) && (due[s] & 2) -> n = 1; was = (risky[s] >> 1) & 1; due[s] = 0
	:: !(due[s] & 3) -> n = next[s]; was = 0; next[s]++
	fi;
	assert(I17_numbering || n == said);
#ifdef M_NEW_ID
	was = 0;                 /* the owner can't know it again */
#endif
	if
#ifdef M_JOBS_NOT_KNOWN
	:: was && job[K(s, n)] >= QUEUED && job[K(s, n)] <= WRITTEN -> again[K(s, n)] = !KNOWN(K(s, n))
#else
	:: was && job[K(s, n)] >= QUEUED && job[K(s, n)] <= WRITTEN -> skip
#endif
	:: was && job[K(s, n)] == KEPT -> job[K(s, n)] = NOJOB; reply[K(s, n)] = 1
	:: was && job[K(s, n)] == NOJOB && KNOWN(K(s, n)) -> reply[K(s, n)] = 1
	:: else -> job[K(s, n)] = QUEUED
	fi
}

/* One session: its shim, its connection, and the owner's task that reads it. */
active [NS] proctype Session() {
	byte s = _pid;
	byte word, n, was;
end:	do

	/* The shim. */

	:: d_step { asked[s] < LINES(s) && !con[s] ->
C_line:		cs[K(s, asked[s])] = UNSENT; asked[s]++ }
	/* HELLO names the unsettled lines, says of each whether it may have run, and where to go on. */
	:: d_step { up == SERVE && !con[s] ->
C2_hello:	con[s] = 1;
#ifndef M_OLD_READER
		close_lines(s);      /* the old connection's reader ends */
#endif
		owed[s] = 0; risky[s] = 0; n = 0;
		do
		:: n < asked[s] ->
			if
			:: cs[K(s, n)] == UNSENT || cs[K(s, n)] == SENT -> owed[s] = owed[s] | (1 << n)
			:: else
			fi;
			if
			:: cs[K(s, n)] == SENT -> risky[s] = risky[s] | (1 << n)
			:: else
			fi;
			n++
		:: else -> break
		od;
		n = 0;
		due[s] = owed[s]; next[s] = asked[s]; told[s] = 0 }
	:: d_step { con[s] && (owed[s] & 1) && nfull(lines[s]) ->
C4_resend_0:	owed[s] = owed[s] & 254; lines[s] ! 0;
		if
		:: cs[K(s, 0)] == UNSENT -> cs[K(s, 0)] = SENT
		:: else
		fi }
	:: d_step { con[s] && !(owed[s] & 1) && (owed[s] & 2) && nfull(lines[s]) ->
C4_resend_1:	owed[s] = 0; lines[s] ! 1;
		if
		:: cs[K(s, 1)] == UNSENT -> cs[K(s, 1)] = SENT
		:: else
		fi }
	/* While a connection stands, a line that was asked is sent at once, behind what was promised. */
#ifdef M_NEW_BEFORE_RESEND
	:: d_step { con[s] && asked[s] < LINES(s) && nfull(lines[s]) ->
#else
	:: d_step { con[s] && owed[s] == 0 && asked[s] < LINES(s) && nfull(lines[s]) ->
#endif
C_send:		lines[s] ! asked[s]; cs[K(s, asked[s])] = SENT; asked[s]++ }
	:: d_step { reply[K(s, 0)] ->
C_settle_0:	reply[K(s, 0)] = 0; cs[K(s, 0)] = SETTLED }
	:: d_step { reply[K(s, 1)] ->
C_settle_1:	reply[K(s, 1)] = 0; cs[K(s, 1)] = SETTLED }
	/* The ack waits behind the lines that were promised. */
#ifdef M_ACK_OVERTAKES
	:: d_step { con[s] && UPTO(s) > told[s] && nfull(lines[s]) ->
#else
	:: d_step { con[s] && owed[s] == 0 && UPTO(s) > told[s] && nfull(lines[s]) ->
#endif
C_ack:		told[s] = UPTO(s); lines[s] ! ACK + told[s] }

	/* The owner's reader. */

	:: d_step { up == SERVE && nempty(lines[s]) ->
		lines[s] ? word;
S2_read:	if
		:: word < ACK -> read_line(s, word, n, was)
		:: else ->
			n = 0;
			do
			:: n < word - ACK ->
				if
				:: jr[K(s, n)] == OUT -> jr[K(s, n)] = FORGOT
				:: else
				fi;
				n++
			:: else -> break
			od
		fi;
		word = 0; n = 0; was = 0 }
	od
}

#define SESSION(k) ((k) / NL)
#ifdef M_REPLY_BEFORE_DURABLE
#define REPLIES(k) (job[k] == WRITTEN)
#else
#define REPLIES(k) (job[k] == WRITTEN && jd[k] == OUT)
#endif
#define UNSYNCED(k) (job[k] == WRITTEN && jd[k] != jr[k])

/* One change's way through the writer lane. */
#ifdef M_APPLY_FIRST
#define FIRST_STEP 2
#define BEGIN(k) skip
#define BEFORE_OUTCOME(k) jr[k] = OP; image[k] = store
#else
#define BEGIN(k) jr[k] = OP; image[k] = store
#define BEFORE_OUTCOME(k) skip
#ifdef M_OP_NOT_DURABLE
#define FIRST_STEP 2
#else
#define FIRST_STEP 1
#endif
#endif
#ifdef M_TWO_WRITERS
#define LANE(k) (job[k] == RUNNING)      /* each change has a lane of its own */
#define STEP(k) steps[k]
byte steps[NK];
#define LANE_FREE(k) true
#else
#define LANE(k) (lane == k + 1)
#define STEP(k) step
#define LANE_FREE(k) (lane == 0)
#endif

#define WANT(k) (jr[k] == ABORTED -> 0 : 2)
#define LACKS(k) (older && jr[k] > OP && PART(k) != WANT(k))

/* The owner: recovery, the writer lane, the thread that syncs, the replies.  They are separate
 * threads and tasks, so any of them may go on while another waits. */
active [WRITERS] proctype Change() {
	byte k = _pid - NS;
end:	do
	:: d_step { up == SERVE && LANE_FREE(k) && job[k] == QUEUED && !BUSY_BEFORE(SESSION(k), k % NL) ->
J1_append_op:	job[k] = RUNNING; lane = k + 1; STEP(k) = FIRST_STEP; BEGIN(k) }
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 1 ->
J2_sync_op:	sync(); STEP(k) = 2 }
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 2 ->
J3_apply_half:	assert(I8_exactly_once || PART(k) < 2);
		store = store + (1 << (3 * k)); STEP(k) = 3 }
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 3 ->
J4_apply_rest:	store = store + (1 << (3 * k)); STEP(k) = 4 }
#ifdef M_OUTCOME_APART
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 4 -> jr[k] = CLOSED; STEP(k) = 5 }
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 5 ->
#elif defined(M_REPLY_BEFORE_OUTCOME)
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 4 && con[SESSION(k)] -> reply[k] = 1; STEP(k) = 5 }
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 5 ->
#else
	:: d_step { up == SERVE && LANE(k) && STEP(k) == 4 ->
#endif
J5_append_out:	BEFORE_OUTCOME(k); jr[k] = OUT; job[k] = WRITTEN; lane = 0; STEP(k) = 0 }
	:: d_step { up == SERVE && UNSYNCED(k) ->       /* covers all that was appended */
J6_sync_out:	sync() }
	:: d_step { up == SERVE && REPLIES(k) && con[SESSION(k)] ->
J7_reply:
#ifdef M_FORGET_EARLY
		jr[k] = FORGOT;
#endif
		reply[k] = 1; job[k] = (AGAIN(k) -> QUEUED : NOJOB) }
	:: d_step { up == SERVE && REPLIES(k) && !con[SESSION(k)] ->
J7_keep:	job[k] = (AGAIN(k) -> QUEUED : KEPT) }

	/* Taking back what has no outcome: first the store, then the word that it is done. */

#ifdef M_ABORT_FIRST
	:: d_step { up == RECOVER && undone == 0 && jr[k] == OP ->
		jr[k] = ABORTED; undone = k + 1 }
	:: d_step { up == RECOVER && undone == k + 1 ->
		store = image[k]; undone = 0 }
#else
#ifdef M_ROLLBACK_OF_DONE
	:: d_step { up == RECOVER && undone == 0 && (jr[k] == OP || jr[k] == OUT) ->
#else
	:: d_step { up == RECOVER && undone == 0 && jr[k] == OP ->
#endif
R1_undo:	store = image[k]; undone = k + 1 }
	:: d_step { up == RECOVER && undone == k + 1 ->
R2_abort:	jr[k] = ABORTED; undone = 0 }
#endif
	/* What the journal knows of a key and an older store has lost is written again. */
	:: d_step { up == RECOVER && undone == 0 && !ANY_OP && LACKS(k) ->
R3_rewrite:	store = (store & (4095 ^ (7 << (3 * k)))) | (WANT(k) << (3 * k)) }
	od
}

#if NS == 1
#define LACKS_ANY (LACKS(0) || LACKS(1))
#else
#define LACKS_ANY (LACKS(0) || LACKS(1) || LACKS(2) || LACKS(3))
#endif
#if defined(M_NO_ROLLBACK)
#define RECOVERED true
#elif defined(M_LOST_NOT_REWRITTEN)
#define RECOVERED (!ANY_OP && undone == 0)
#else
#define RECOVERED (!ANY_OP && undone == 0 && !LACKS_ANY)
#endif

active proctype World() {
	byte s;
end:	do
	:: d_step { up == DOWN ->
R0_open:	up = RECOVER;
#ifndef M_OPEN_UNSYNCED
		sync();              /* what a killed owner wrote may be in the page cache alone */
#endif
		i = 0 }
	:: d_step { up == RECOVER && RECOVERED ->
R4_ready:	up = SERVE; older = 0 }
	:: d_step { up != DOWN && crashes < CRASHES ->
E_kill:		crashes++; lose_memory() }
	:: d_step { up != DOWN && crashes < CRASHES ->
E_power:	crashes++;
		i = 0;
		do
		:: i < NK -> jr[i] = jd[i]; i++
		:: else -> break
		od;
		lose_memory() }
	/* The store's own files are written back when the kernel likes. */
	:: d_step { up != DOWN && crashes < CRASHES && store != 0 ->
E_power_store:	crashes++;
		i = 0;
		do
		:: i < NK -> jr[i] = jd[i]; i++
		:: else -> break
		od;
		store = 0; older = 1;
		lose_memory() }
	:: d_step { up == SERVE && cuts < CUTS && con[0] ->
E_cut_0:	cuts++; con[0] = 0; reply[0] = 0; reply[1] = 0 }
#if NS > 1
	:: d_step { up == SERVE && cuts < CUTS && con[1] ->
E_cut_1:	cuts++; con[1] = 0; reply[2] = 0; reply[3] = 0 }
#endif
#ifdef LIVE
	:: d_step { crashes < CRASHES || cuts < CUTS ->
E_enough:	crashes = CRASHES; cuts = CUTS }
#endif
	od
}

#define STAYS(k) (up != SERVE || cs[k] != SETTLED || PART(k) == 2)
#define WHOLE(k) (PART(k) == 0 || PART(k) == 2)
#define RUNS(k) (job[k] == RUNNING)
#if NS == 1
#define QUIET (up == SERVE && !RUNS(0) && !RUNS(1))
#else
#define QUIET (up == SERVE && !RUNS(0) && !RUNS(1) && !RUNS(2) && !RUNS(3))
#endif
#define ORDERED(s) (up != SERVE || PART(K(s, 1)) == 0 || PART(K(s, 0)) == 2)
#define BROKEN(k) \
	:: d_step { !STAYS(k) -> assert(I8_acknowledged_stays || STAYS(k)) } \
	:: d_step { QUIET && !WHOLE(k) -> assert(I15_whole_changes || WHOLE(k)) }

/* Enabled only in a state that must not be. */
active proctype Checks() {
end:	do
	BROKEN(0)
	BROKEN(1)
	:: d_step { !ORDERED(0) -> assert(I16_order || ORDERED(0)) }
#if NS > 1
	BROKEN(2)
#if NL1 == 2
	BROKEN(3)
	:: d_step { !ORDERED(1) -> assert(I16_order || ORDERED(1)) }
#endif
#endif
	od
}

#ifdef LIVE
#if NS == 1
ltl L1_answered { <> (cs[0] == SETTLED && cs[1] == SETTLED) }
#else
ltl L1_answered { <> (cs[0] == SETTLED && cs[1] == SETTLED && cs[2] == SETTLED && (NL1 == 1 || cs[3] == SETTLED)) }
#endif
#endif
