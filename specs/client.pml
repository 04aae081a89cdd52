/* A client: one shim.  It takes no lock, removes no file, kills nobody, judges by no pid.
 *
 * The code: palace/shim/{connect,relay,spawn}.py, palace/protocol/{election,ledger}.py.
 */

#ifdef SMALL_BACKLOG
#define FULL (WAITING >= 1)
#else
#define FULL false
#endif

/* Slots are alike, so the first that is free stands for all of them. */
#define SPARE(o) (pc[o] == DOWN && life[o] < LIVES)
#if NB == 1
#define CAN_SPAWN SPARE(0)
#define SPAWN pc[0] = FIRST
#else
#define CAN_SPAWN (SPARE(0) || SPARE(1))
#define SPAWN if :: SPARE(0) -> pc[0] = FIRST :: else -> pc[1] = FIRST fi
#endif

#ifdef LIVE
#define SEEN_NOBODY !LISTENS(sock)   /* to spawn for ever in place of dialling is no behaviour */
#else
#define SEEN_NOBODY true
#endif

/* When may a client give up waiting for WELCOME?  The wait is long against any answer. */
#if defined(M_NO_HELLO_TIMEOUT)
#define TIMED_OUT(c) false
#elif defined(LIVE)
#define TIMED_OUT(c) (!ALIVE(peer[c]))
#else
#define TIMED_OUT(c) true
#endif

active [NC] proctype Client() {
	byte c = _pid - NO - NC;
	do

	/* Its own client. */

	:: d_step { req[c] == NOLINE && asked[c] < LINES && cpc[c] != IDLE && cpc[c] != CHILD ->
C_line:		asked[c]++; req[c] = NEW; read_now(c) }
	:: d_step { req[c] == NOLINE && asked[c] < LINES && cpc[c] == IDLE ->
C_line_idle:	asked[c]++; req[c] = NEW; cpc[c] = DIAL }
	:: d_step { req[c] == NOLINE && asked[c] == LINES && cpc[c] != CHILD && cpc[c] != DONE ->
C_done:		drop(c); cpc[c] = DONE }
	:: cpc[c] == DONE ->
C_leave:	break

	/* Finding an owner. */

	:: d_step { cpc[c] == DIAL && LISTENS(sock) && !FULL ->
C2_dial:	peer[c] = sock; acc[c] = BACKLOG; cpc[c] = GREET }
	/* Nobody listens: it backs off, and spawns now and then (in the end it does). */
#ifdef LIVE
	:: d_step { cpc[c] == DIAL && !LISTENS(sock) && !CAN_SPAWN ->
#else
	:: d_step { cpc[c] == DIAL && !LISTENS(sock) ->
#endif
#ifdef M_CLIENT_UNLINKS
C3_absent:	cpc[c] = (sock != 0 -> CM : DIAL) }
#else
C3_absent:	cpc[c] = DIAL }
#endif
#ifdef SMALL_BACKLOG
	:: d_step { cpc[c] == DIAL && LISTENS(sock) && FULL ->    /* EAGAIN: alive */
#ifdef M_EAGAIN_IS_DEAD
C2_busy:	cpc[c] = CM }
#else
C2_busy:	cpc[c] = DIAL }
#endif
#endif
#if defined(M_CLIENT_UNLINKS) || defined(M_EAGAIN_IS_DEAD)
	:: d_step { cpc[c] == CM ->
		assert(I4_own_files || !ALIVE(sock));
		sock = 0; cpc[c] = DIAL }
#endif
#ifdef M_PID_KILL
	/* The pid answers to kill(0), but no broker answers: so it must be a stuck one. */
	:: d_step { cpc[c] == DIAL && rec != 0 ->
		assert(I12_nobody_killed || (!ALIVE(rec) && !reused)) }
#endif
	/* What it saw may be long past by now, so a spawn may come at any time; it does no harm. */
	:: d_step { cpc[c] == DIAL && CAN_SPAWN && SEEN_NOBODY ->
C3_spawn:	SPAWN }
#if ND > 0
	:: d_step { cpc[c] == DIAL && c < ND && SEEN_NOBODY && pc[NB + c] == DOWN && life[NB + c] < DLIVES ->
C6_direct:	pc[NB + c] = FIRST; cpc[c] = CHILD }
	/* The socket pair exists before the child: its HELLO waits there. */
	:: d_step { cpc[c] == CHILD && pc[NB + c] == SERVE ->
D2_served:	peer[c] = INC(NB + c); acc[c] = BACKLOG; cpc[c] = GREET }
	:: d_step { cpc[c] == CHILD && pc[NB + c] == DOWN ->
D3_ended:	cpc[c] = DIAL }
#endif

	:: d_step { cpc[c] == GREET && acc[c] == BACKLOG && TIMED_OUT(c) ->
C3_silent:
#ifdef LIVE
		if
		:: CAN_SPAWN -> SPAWN        /* in a safe world it may spawn at any time anyway */
		:: else
		fi;
#endif
		drop(c); cpc[c] = DIAL }

#ifndef COARSE
	/* Reading, and sending. */

	:: d_step { cpc[c] == GREET && (acc[c] == OPEN || acc[c] == CLOSING) ->
C2_welcomed:	take_welcome(c) }
	:: d_step { cpc[c] == GREET && acc[c] >= REFUSED ->
C3_refused:	drop(c); cpc[c] = DIAL }
	:: d_step { cpc[c] == CONN && req[c] == NEW && (acc[c] == OPEN || acc[c] == CLOSING) ->
C4_send:	req[c] = SENT }
	:: d_step { WELCOMED(c) && (req[c] == REPLY || req[c] == UNK) ->
C4_reply:	take_reply(c) }
	:: d_step { WELCOMED(c) && bye[c] ->
C4_goodbye:	take_goodbye(c) }
	:: d_step { acc[c] == EOF && READ_ALL(c) ->
C4_parted:	take_end(c) }
	:: d_step { acc[c] == RST && READ_ALL(c) ->
C4_lost:	take_end(c) }
#endif
	od
}
