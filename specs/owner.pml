/* An owner: a broker, or the broker that a shim runs as its own child (direct mode).
 *
 * The code: palace/broker/{serve,lock,endpoint,broker,leaving,scheduling,connections,requests}.py.
 */

#define DIRECT(o) (o >= NB)

#ifdef COARSE
#define LOCK_OF(o) linked
#else
#define LOCK_OF(o) ino[o]
#endif

/* B2: when does a starter go on? */
#if defined(M_PID_CHECK)
#define MAY_OWN(o) (!ALIVE(rec))
#define TAKE(o) skip
#elif defined(M_SOCKET_PROBE)
#define MAY_OWN(o) (!LISTENS(sock))
#define TAKE(o) skip
#elif defined(M_CHECK_THEN_OPEN)
#define MAY_OWN(o) (holder[LOCK_OF(o)] == 0)
#define TAKE(o) if :: !DIRECT(o) -> holder[ino[o]] = o + 1 :: else fi
#elif defined(M_LEASE_TTL)
/* A lease runs out while its holder is suspended: whoever comes may take it. */
#define MAY_OWN(o) (holder[ino[o]] == 0 || STARTED(holder[ino[o]] - 1))
#define TAKE(o) holder[ino[o]] = o + 1
#elif defined(M_PID_ALIVE)
/* Whoever sees a living pid in the record leaves, though the number may be somebody else's now. */
#define MAY_OWN(o) (holder[ino[o]] == 0 && !ALIVE(rec) && !reused)
#define TAKE(o) holder[ino[o]] = o + 1
#else
#define MAY_OWN(o) (holder[LOCK_OF(o)] == 0)
#define TAKE(o) holder[ino[o]] = o + 1
#endif

#if defined(COARSE)
#define FIRST B2
#elif defined(M_LOCK_ORDER)
#define FIRST B4
#else
#define FIRST B1
#endif

#if defined(FENCE) && !defined(M_NO_FENCE) && !defined(M_LOCK_ORDER)
#define AFTER_B3 B4
#else
#define AFTER_B3 B5    /* every home has a lock of its own: without stock, B4 excludes nobody */
#endif

#if defined(FENCE) && !defined(M_NO_FENCE) && !defined(M_LOCK_ORDER) && !defined(M_OPEN_UNFENCED)
#define MUST_FENCE
#define MAY_OPEN(o) (mlock == o + 1)
#else
#define MAY_OPEN(o) true
#endif

/* A connection's tasks run in these states of its owner. */
#if defined(M_SPLIT_DECISION) || defined(M_CLOSE_WHILE_ACCEPTING)
#define XS 17          /* decided, but the loop goes round once more */
#define SERVING(o) (pc[o] == SERVE || pc[o] == XS)
#else
#define SERVING(o) (pc[o] == SERVE)
#endif

#ifdef LIVE
/* An idle time is long against a dial: an owner leaves by itself only so often while clients ask. */
#define MAY_LEAVE(o) (exits < EXITS || ALL_DONE || (DIRECT(o) && cpc[o - NB] == DONE))
byte exits;
#else
#define MAY_LEAVE(o) true
#endif

#if defined(M_SPLIT_DECISION)
bit known[NC];         /* sessions that the decision knew of */
#define TELL(c) known[c]
#elif defined(M_IDLE_IGNORES_HELLOED)
#define TELL(c) (req[c] != NOLINE)
#else
#define TELL(c) true
#endif
#if defined(M_EPOCH_NOT_DURABLE)
byte ep_disk;          /* what a power cut leaves of the epoch file */
#endif

inline next_epoch(o) {
	i = ep;
	if
	:: rec != 0 && rec != TORN && recep > i -> i = recep   /* the epoch file may be lost */
	:: else
	fi;
	myep[o] = i + 1
}

/* Each welcomed session is told which of its lines did not run. */
inline say_goodbye(o) {
	i = 0;
	do
	:: i < NC ->
		if
		:: peer[i] == INC(o) && acc[i] == OPEN && TELL(i) ->
			acc[i] = CLOSING;
			bye[i] = 1;
			if
			:: req[i] == ADM && !db[o] -> req[i] = UNRUN   /* nothing begins while it loads */
			:: else
			fi;
			read_now(i)
		:: else
		fi;
		i++
	:: else -> break
	od
}

inline answer_backlog(o, how) {
	i = 0;
	do
	:: i < NC ->
		if
		:: peer[i] == INC(o) && acc[i] == BACKLOG -> acc[i] = how; read_now(i)
		:: else
		fi;
		i++
	:: else -> break
	od
}

/* The grace is over: what was not begun is handed back, what runs is told to be unknown. */
inline give_back(o) {
	i = 0;
	do
	:: i < NC ->
		if
		:: peer[i] == INC(o) && req[i] == ADM -> req[i] = UNRUN; bye[i] = 1
		:: peer[i] == INC(o) && req[i] == RAN -> req[i] = UNK
		:: else
		fi;
		i++
	:: else -> break
	od
}

#define WORKS1(o, c) (peer[c] == INC(o) && (req[c] == ADM || req[c] == RAN))
#if NC == 1
#define WORKS(o) WORKS1(o, 0)
#else
#define WORKS(o) (WORKS1(o, 0) || WORKS1(o, 1))
#endif

active [NO] proctype Owner() {
	byte o = _pid;
end:	do

	/* Becoming the owner. */

	/* With the lock file in its place for ever, nobody can tell the open from the flock. */
#ifndef COARSE
	:: d_step { pc[o] == B1 && linked != 0 ->
B1_open:	ino[o] = linked; pc[o] = B2 }
	:: d_step { pc[o] == B1 && linked == 0 && inodes < INODES - 1 ->
B1_create:	assert(I11_lock_file_forever || inodes == 0);
		inodes++; linked = inodes; ino[o] = linked; pc[o] = B2 }
#endif
	:: d_step { pc[o] == B2 && MAY_OWN(o) && life[o] < (DIRECT(o) -> DLIVES : LIVES) ->
B2_lock:
#ifdef COARSE
		ino[o] = linked; TAKE(o); life[o]++; pc[o] = AFTER_B3 }
#else
		TAKE(o); life[o]++; pc[o] = B3 }
#endif
#ifdef M_STALE_LOCK_DELETED
	:: d_step { pc[o] == B2 && !MAY_OWN(o) && !ALIVE(rec) ->
M_delete:	linked = 0; ino[o] = 0; pc[o] = B1 }
	:: d_step { pc[o] == B2 && !MAY_OWN(o) && ALIVE(rec) ->
#elif defined(M_LOSER_WAITS)
	:: d_step { false ->                        /* a blocking flock */
#else
	:: d_step { pc[o] == B2 && !MAY_OWN(o) ->
#endif
B2_lost:	give_up(o) }
#ifdef ERRORS
	:: d_step { pc[o] == B2 && errors < 1 ->    /* ENOLCK, EOPNOTSUPP: fail closed */
B2_error:	errors++;
#ifdef M_ENOLCK_IS_ACQUIRED
		life[o]++; pc[o] = B3 }
#else
		give_up(o) }
#endif
#endif
#ifndef COARSE
#ifdef M_NO_VERIFY
	:: d_step { pc[o] == B3 ->
#else
	:: d_step { pc[o] == B3 && ino[o] == linked ->
#endif
B3_verified:
#ifdef M_LOCK_LOST_AT_EXEC
		unlock(o);           /* the starter took it, and exec closed its descriptor */
#endif
		pc[o] = AFTER_B3 }
#endif
#if !defined(M_NO_VERIFY) && defined(UNLINKS)
	:: d_step { pc[o] == B3 && ino[o] != linked ->
B3_replaced:	life[o]--; unlock(o); ino[o] = 0; pc[o] = B1 }
#endif
#ifdef FENCE
	:: d_step { pc[o] == B4 && mlock == 0 ->
B4_fence:	mlock = o + 1;
#ifdef M_LOCK_ORDER
		pc[o] = B1 }
#else
		pc[o] = B5 }
#endif
	:: d_step { pc[o] == B4 && mlock != 0 ->    /* it serves without, and names stock to callers */
B4_late:	assert(I13_holder_named || mlock == STOCK);
#ifdef M_LOCK_ORDER
		pc[o] = B1 }
#else
		pc[o] = B5 }
#endif
#endif
#ifdef MUST_FENCE
	:: d_step { pc[o] == SERVE && !db[o] && mlock == 0 ->
B4_take:	mlock = o + 1 }
#endif
	:: d_step { pc[o] == B5 ->
B5_epoch:	next_epoch(o);
#ifndef M_EPOCH_LATE
		ep = myep[o];
#endif
#ifdef M_RECORD_FIRST
		pc[o] = B7 }
#else
		pc[o] = B6 }
#endif
	/* unlink and bind are one step: before and after it clients are refused alike. */
	:: d_step { pc[o] == B6 ->
B6_bind:	assert(I4_own_files || !ALIVE(sock));
#ifdef COARSE
		sock = INC(o); lst[o] = 1; pc[o] = B7 }
#else
		sock = INC(o); pc[o] = B6L }
#endif
	:: d_step { pc[o] == B6 && DIRECT(o) ->     /* it serves its own client alone */
B6_without:	pc[o] = B7 }
#ifndef COARSE
	:: d_step { pc[o] == B6L ->
B6_listen:	lst[o] = 1;
#ifdef M_RECORD_FIRST
		pc[o] = SERVE }
#else
		pc[o] = B7 }
#endif
#endif
#ifdef M_RECORD_IN_PLACE
	:: d_step { pc[o] == B7 && rec != TORN -> rec = TORN }
	:: d_step { pc[o] == B7 && rec == TORN ->
#else
	:: d_step { pc[o] == B7 ->
#endif
B7_publish:	assert(I4_own_files || !ALIVE(rec));
		assert(I3_published_bound || lst[o] || DIRECT(o));
		rec = INC(o); recep = myep[o];
#ifdef M_LOCK_AT_START_ONLY
		unlock(o);
#endif
#ifdef M_RECORD_FIRST
		pc[o] = B6 }
#else
		pc[o] = SERVE }
#endif
	/* In a thread, beside everything up to the closing of the store. */
	:: d_step { pc[o] >= SERVE && pc[o] <= X5 && !db[o] && MAY_OPEN(o) ->
B9_store:	db[o] = 1;
		assert(I6_epoch || myep[o] > lastep);
		lastep = myep[o] }
#ifdef M_EPOCH_LATE
	:: d_step { pc[o] == SERVE && db[o] && ep < myep[o] -> ep = myep[o] }
#endif
#if defined(HANGS) && !defined(M_NO_WATCHDOG)
	:: d_step { HUNG(o) ->                      /* the watchdog, or its native half */
W_abort:	die(o, RST) }
#endif

	/* Leaving.  Deciding and unpublishing are one step of the loop. */

#if defined(M_SPLIT_DECISION)
	:: d_step { pc[o] == SERVE ->
		i = 0;
		do
		:: i < NC -> known[i] = (peer[i] == INC(o) && acc[i] == OPEN); i++
		:: else -> break
		od;
		pc[o] = XS }
	:: d_step { pc[o] == XS ->
#elif defined(M_CLOSE_WHILE_ACCEPTING)
	:: d_step { pc[o] == SERVE && db[o] -> db[o] = 0; pc[o] = XS }
	:: d_step { pc[o] == XS ->
#else
	:: d_step { pc[o] == SERVE && MAY_LEAVE(o) ->
#endif
X0_decide:
#ifdef LIVE
		if
		:: exits < EXITS -> exits++
		:: else
		fi;
#endif
#ifndef M_CLEAN_AFTER_RELEASE
		if
		:: rec == INC(o) -> rec = 0; recep = 0
		:: else
		fi;
#endif
		pc[o] = X1 }
	/* Goodbyes go out in the same step of the loop; a SIGKILL between them and the unlink is to
	 * clients as one before it. */
	:: d_step { pc[o] == X1 ->
X2_unlink:
#ifndef M_CLEAN_AFTER_RELEASE
		if
		:: sock == INC(o) -> sock = 0
		:: else
		fi;
#endif
		say_goodbye(o);
		pc[o] = X2 }
	:: d_step { pc[o] == X2 ->
#ifdef M_WELCOME_WHILE_DRAINING
X3_backlog:	answer_backlog(o, OPEN);
#else
X3_backlog:	answer_backlog(o, REFUSED);
#endif
		pc[o] = X3 }
	:: d_step { pc[o] == X3 ->
X4_hang_up:	lst[o] = 0; answer_backlog(o, EOF);
#ifdef M_RELEASE_BEFORE_CLOSE
		unlock(o);
#endif
		pc[o] = X5 }
#ifdef M_DRAIN_DROPS
	:: d_step { pc[o] == X5 ->
#else
	:: d_step { pc[o] == X5 && !WORKS(o) ->
#endif
X5_close:	hang_up(o, EOF); db[o] = 0; pc[o] = X6 }
#ifdef GRACE
	:: d_step { pc[o] == X5 && WORKS(o) ->      /* the store is left as after a crash */
X5_grace:	give_back(o); hang_up(o, EOF);
#ifdef M_UNLOCK_THEN_TEARDOWN
		unlock(o);
#endif
		pc[o] = X6 }
#endif
#if defined(M_CLEAN_AFTER_RELEASE) || defined(M_UNLINK_LOCK_AFTER)
	:: d_step { pc[o] == X6 -> die(o, EOF); pc[o] = XA }
#else
	:: d_step { pc[o] == X6 ->
X6_end:
#ifdef M_UNLINK_LOCK_HELD
		linked = 0;
#endif
		die(o, EOF) }
#endif
#ifdef M_CLEAN_AFTER_RELEASE
	:: d_step { pc[o] == XA ->
		assert(I4_own_files || ((sock == INC(o) || !ALIVE(sock)) && (rec == INC(o) || !ALIVE(rec))));
		sock = 0; rec = 0; pc[o] = DOWN }
#endif
#ifdef M_UNLINK_LOCK_AFTER
	:: d_step { pc[o] == XA -> linked = 0; pc[o] = DOWN }
#endif
	od
}

/* When is the store behind a call? */
#if defined(M_CLOSE_WHILE_ACCEPTING)
#define READY(o) (db[o] || pc[o] == XS)
#elif defined(M_REPLY_WHILE_LOADING)
#define READY(o) true
#else
#define READY(o) db[o]
#endif

#define W OWN(peer[c])   /* the owner of this connection */

/* The owner's tasks of client c's connection.  They are a process of their own, since the loop
 * gives each task its turn whatever the others do. */
active [NC] proctype Session() {
	byte c = _pid - NO;
end:	do
	/* Accepted, HELLO read, WELCOME sent: a peer sees nothing of it before the WELCOME. */
	:: d_step { acc[c] == BACKLOG && NEWEST(peer[c]) && SERVING(W) ->
S1_welcome:	acc[c] = OPEN; read_now(c) }
#ifdef M_MAYBE_RUNS_AGAIN
	:: d_step { acc[c] == OPEN && req[c] == SENT && SERVING(W) ->
#else
	:: d_step { acc[c] == OPEN && req[c] == SENT && SERVING(W) && !maybe[c] ->
#endif
S2_admit:	req[c] = ADM }
#ifndef M_MAYBE_RUNS_AGAIN
	:: d_step { acc[c] == OPEN && req[c] == SENT && SERVING(W) && maybe[c] ->
S2_unknown:	req[c] = UNK; read_now(c) }
#endif
	:: d_step { (acc[c] == OPEN || acc[c] == CLOSING) && req[c] == ADM && READY(W) && !HUNG(W) ->
S3_run:		assert(I5_store_behind_reply || db[W]);
		runs[c]++;
		assert(I8_exactly_once || runs[c] <= 1);
		req[c] = RAN }
#ifdef HANGS
	:: d_step { (acc[c] == OPEN || acc[c] == CLOSING) && req[c] == ADM && READY(W) && hangs < 1 ->
S3_hang:	hangs++; hung = W + 1 }            /* the one writer is stuck */
#endif
	:: d_step { (acc[c] == OPEN || acc[c] == CLOSING) && req[c] == RAN && !HUNG(W) ->
S4_reply:	req[c] = REPLY; read_now(c) }
	od
}
