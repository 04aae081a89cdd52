/* Which ends of owners are recorded: once, never for nothing, and none is forgotten
 * (docs/design.md, palace/protocol/deaths.py).
 *
 * A model of its own: of the protocol it needs no more than that one owner has the lock, and that
 * the kernel frees it (I1, palace.pml).  Each incarnation has a canary at most, a mark, and a
 * record.  What an owner writes on its pipe before it ends is read before the pipe's end, so a word
 * that was said is known.  Owner, canary and pipe may be lost at any time.
 *
 * `M_...` are broken protocols: exactly one is switched on to see that a check finds it.
 */

#ifndef LIVES
#define LIVES 3        /* incarnations */
#endif
#ifndef CRASHES
#define CRASHES 2      /* SIGKILLs of owners */
#endif
#ifndef KILLS
#define KILLS 2        /* SIGKILLs of canaries */
#endif
#ifndef CUTS
#define CUTS 1         /* pipes that are lost though both ends live */
#endif
#define N (LIVES + 1)  /* numbered from 1 */

#ifdef SHORTEST
#define HIDDEN
#else
#define HIDDEN hidden
#endif
HIDDEN byte W1_once = 0;
HIDDEN byte W2_silent = 0;
HIDDEN byte W3_told = 0;
HIDDEN byte W4_no_lock = 0;

/* Where an owner is. */
#define DOWN     0
#define LOCKED   1
#define ARMED    2   /* it has a canary and a mark */
#define SERVES   3
#define LEAVING  4
#define UNMARKED 5   /* X6: its mark is removed */
#define LEFT     6   /* it has told its canary, and is about to end */
#define OVER     7   /* it came to its own end */
#define DEAD     8

/* Where a canary is. */
#define NONE    0
#define WATCHES 1
#define GRACE   2    /* the pipe has ended: it looks again in two seconds */

byte own[N];
byte can[N];
bit  left[N];        /* its canary was told that it has left */
bit  heard[N];       /* its canary was told that it serves */
bit  mark[N];
bit  cut[N];         /* its pipe was lost */
byte recs[N];        /* records of its death */
byte lock;           /* the incarnation that has it */
byte last;           /* incarnations so far */
byte crashes, kills, cuts;

/* Ghosts. */
bit  dead[N];        /* it died when that had to be told */
bit  unheard[N];     /* what it said last went into a lost pipe */

#define LIVES_ON(n) (own[n] >= LOCKED && own[n] <= LEFT)
#if defined(M_TRUST_EOF)
#define SEEMS_ALIVE(n) false
#elif defined(M_PID_NOT_IDENTITY)
#define SEEMS_ALIVE(n) (lock != 0)      /* somebody else has that number now */
#else
#define SEEMS_ALIVE(n) LIVES_ON(n)
#endif

inline record(n) {
	if
#ifdef M_TWO_RECORDERS
	:: true ->
#else
	:: recs[n] == 0 ->                      /* O_EXCL */
#endif
		recs[n]++;
		assert(W1_once || recs[n] == 1);
		assert(W2_silent || unheard[n] || (!LIVES_ON(n) && own[n] != OVER))
	:: else
	fi;
	mark[n] = 0
}

inline check(n) {
	assert(W3_told || !dead[n] || recs[n] != 0 || mark[n] || (can[n] != NONE && !left[n]))
}

inline say_left(n) {
	if
	:: !cut[n] -> left[n] = 1
	:: else -> unheard[n] = 1
	fi
}

inline die(n) {
	dead[n] = (own[n] == SERVES || own[n] == LEAVING);
	own[n] = DEAD;
	if
	:: lock == n -> lock = 0
	:: else
	fi;
	check(n)
}

active [2] proctype Owner() {
	byte me = 0, n;
end:	do
	:: d_step { (me == 0 || own[me] >= OVER) && lock == 0 && last < LIVES ->
B2_lock:	last++; me = last; lock = me; own[me] = LOCKED }
	:: d_step { me != 0 && own[me] == LOCKED ->
B6_arm:		can[me] = WATCHES;
#ifndef M_UNMARKED
		mark[me] = 1;
#endif
		own[me] = ARMED }
	:: d_step { me != 0 && own[me] == ARMED ->
B6_refused:	mark[me] = 0; say_left(me); own[me] = OVER; lock = 0 }
	:: d_step { me != 0 && own[me] == ARMED ->
B7_publish:	heard[me] = 1; own[me] = SERVES }
	/* Of those before it, at once or as soon as their canaries are gone, and not for ever. */
	:: d_step { me != 0 && (own[me] == ARMED || own[me] == SERVES) && me > 1 && mark[me - 1] ->
F_former:	n = me - 1;
#ifdef M_FORMER_FORGETS
		mark[n] = 0;
#else
		record(n);
#endif
		check(n) }
	:: d_step { me != 0 && (own[me] == ARMED || own[me] == SERVES) && me > 2 && mark[me - 2] ->
F_before:	n = me - 2; record(n); check(n) }
	:: d_step { me != 0 && own[me] == SERVES && can[me] == NONE ->
R_retrofit:	can[me] = WATCHES; cut[me] = 0 }
	:: d_step { me != 0 && own[me] == SERVES ->
X0_decide:	own[me] = LEAVING;
#ifdef M_DISMISS_BEFORE_LEFT
		mark[me] = 0; say_left(me)
#endif
		}
	:: d_step { me != 0 && own[me] == LEAVING ->
X6_unmark:	mark[me] = 0; own[me] = UNMARKED }
	:: d_step { me != 0 && own[me] == UNMARKED ->
X6_left:	say_left(me); own[me] = LEFT }
	:: d_step { me != 0 && own[me] == LEFT ->
X6_end:		own[me] = OVER; lock = 0 }
	:: d_step { me != 0 && own[me] >= LOCKED && own[me] <= LEFT && crashes < CRASHES ->
K_owner:	crashes++; die(me) }
	od
}

active [LIVES] proctype Canary() {
	byte me = _pid - 1;    /* 1 is the first */
end:	do
	:: d_step { can[me] == WATCHES && left[me] ->
C_left:		can[me] = NONE; check(me) }
	:: d_step { can[me] == WATCHES && !left[me] && (cut[me] || own[me] >= OVER) ->
C_end:		can[me] = GRACE }
	:: d_step { can[me] == GRACE && SEEMS_ALIVE(me) ->
C_lost:		can[me] = NONE;
#ifdef M_PID_NOT_IDENTITY
		mark[me] = 0;
#endif
		check(me) }
	:: d_step { can[me] == GRACE && !SEEMS_ALIVE(me) && !heard[me] ->
C_unserved:	mark[me] = 0; can[me] = NONE }
#ifdef M_PROBE_TAKES_LOCK
	:: d_step { can[me] == GRACE && lock == 0 -> lock = LIVES + me; assert(W4_no_lock || lock <= LIVES) }
#endif
	:: d_step { can[me] == GRACE && !SEEMS_ALIVE(me) && heard[me] ->
C_record:	record(me); can[me] = NONE }
	:: d_step { can[me] != NONE && kills < KILLS ->
K_canary:	kills++; can[me] = NONE; check(me) }
	:: d_step { can[me] == WATCHES && !cut[me] && own[me] == SERVES && cuts < CUTS ->
K_pipe:		cuts++; cut[me] = 1 }
	od
}
