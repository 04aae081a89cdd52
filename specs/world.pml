/* Everybody else: stock writers, a guest behind a VM boundary, SIGKILL, power cuts; and the checks. */

#ifdef FENCE
#ifndef STOCKS
#define STOCKS 2       /* how often stock writes */
#endif
byte spc, stocks;

/* A stock process of this home: it knows nothing of broker.lock, only mempalace's own. */
active proctype Stock() {
end:	do
	:: d_step { spc == 0 && mlock == 0 && stocks < STOCKS ->
T1_lock:	stocks++; mlock = STOCK; spc = 1 }
	:: d_step { spc == 1 ->
T2_open:	sdb = 1; spc = 2 }
	:: d_step { spc == 2 ->
T3_close:	sdb = 0; spc = 3 }
	:: d_step { spc == 3 ->
T4_release:	mlock = 0; spc = 0 }
	od
}
#endif

#ifdef GUEST
byte gpc;
bit  glock;            /* the guest kernel's own table: the host's locks are not in it */
#ifdef M_LENDER_TTL
bit  lent;
#endif

active proctype Guest() {
end:	do
	/* D0: the mount table says that another kernel serves the palace. */
#if defined(M_GUEST_FLOCK)
	:: d_step { gpc == 0 && !glock -> glock = 1; gpc = 1 }
	:: d_step { gpc == 1 -> gdb = 1; gpc = 2 }
	:: d_step { gpc == 2 -> gdb = 0; glock = 0; gpc = 3 }
#elif defined(M_LENDER_TTL)
	/* The owner lends its right for a while.  The guest is paused; the time runs out. */
	:: d_step { gpc == 0 && pc[0] == SERVE && db[0] -> db[0] = 0; lent = 1; gpc = 1 }
	:: d_step { gpc == 1 && lent -> gdb = 1; gpc = 2 }
	:: d_step { lent && pc[0] == SERVE -> lent = 0; db[0] = 1 }
	:: d_step { gpc == 2 -> gdb = 0; gpc = 3 }
#else
	:: d_step { gpc == 0 ->
G_refuse:	gpc = 3 }
#endif
	od
}
#endif

#ifdef LOSE_EPOCH
byte lost;
#endif
inline fall(o) {
	if
	:: STARTED(o) -> die(o, RST)
	:: else
	fi
}

#define KILLS(o, label) :: d_step { crashes < CRASHES && STARTED(o) -> label: crashes++; die(o, RST) }

/* SIGKILL at any time; a power cut ends all owners at once.  Files stay as they are on the disk. */
active proctype World() {
end:	do
	KILLS(0, E_kill_0)
#if NO > 1
	KILLS(1, E_kill_1)
#endif
#if NO > 2
	KILLS(2, E_kill_2)
#endif
#if NO > 3
	KILLS(3, E_kill_3)
#endif
#ifdef FENCE
	:: d_step { crashes < CRASHES && spc != 0 ->
E_kill_stock:	crashes++; sdb = 0; spc = 0;
		if
		:: mlock == STOCK -> mlock = 0
		:: else
		fi }
#endif
#ifdef REBOOT
#ifdef M_EPOCH_NOT_DURABLE
	:: d_step { crashes < CRASHES ->
#else
	:: d_step { crashes < CRASHES && (STARTED(0) || (NO > 1 && STARTED(1))) ->
#endif
E_reboot:	crashes++;
		fall(0);
#if NO > 1
		fall(1);
#endif
#if NO > 2
		fall(2);
#endif
#if NO > 3
		fall(3);
#endif
#ifdef M_EPOCH_NOT_DURABLE
		ep = 0;                 /* the page cache is gone */
#endif
		heir_lst = 0 }
#endif
#ifdef LOSE_EPOCH
	/* The epoch file is restored from an old backup, or lost, while a dead owner's record is left. */
	:: d_step { rec != 0 && ep != 0 && lost < 1 && holder[linked] == 0 ->
E_lose_epoch:	lost++; ep = 0 }
#endif
#if defined(M_PID_ALIVE) || defined(M_PID_KILL)
	:: d_step { rec != 0 && !ALIVE(rec) && !reused -> reused = 1 }
#endif
#ifdef LIVE
	/* Crashes need not happen: weak fairness must not force them. */
	:: d_step { crashes < CRASHES || exits < EXITS ->
E_enough:	crashes = CRASHES; exits = EXITS }
#endif
	od
}

#if NO == 1
#define OPENERS (db[0] + sdb + gdb + wdb)
#elif NO == 2
#define OPENERS (db[0] + db[1] + sdb + gdb + wdb)
#elif NO == 3
#define OPENERS (db[0] + db[1] + db[2] + sdb + gdb + wdb)
#else
#define OPENERS (db[0] + db[1] + db[2] + db[3] + sdb + gdb + wdb)
#endif

#define RIGHT(o) (!db[o] || (ino[o] == linked && holder[linked] == o + 1))
#define REACHABLE(o) (pc[o] != SERVE || ((!lst[o] || sock == INC(o)) && rec == INC(o)))
#define BROKEN(o) \
	:: d_step { !RIGHT(o) && !I2_right_to_open -> assert(I2_right_to_open || RIGHT(o)) } \
	:: d_step { !REACHABLE(o) && !I4_own_files -> assert(I4_own_files || REACHABLE(o)) }

/* Enabled only in a state that must not be: it adds no state of its own. */
active proctype Checks() {
end:	do
	:: d_step { OPENERS > 1 && !I1_single_writer -> assert(I1_single_writer || OPENERS <= 1) }
	:: d_step { gdb && !I10_guest -> assert(I10_guest || !gdb) }
	BROKEN(0)
#if NO > 1
	BROKEN(1)
#endif
#if NO > 2
	BROKEN(2)
#endif
#if NO > 3
	BROKEN(3)
#endif
	od
}

#ifdef LIVE
#define DEAD_HOLDER (holder[linked] != 0 && pc[holder[linked] - 1] == DOWN)
#define EMPTY (pc[0] == DOWN && (NO < 2 || pc[1] == DOWN) && (NO < 3 || pc[2] == DOWN))
#if LIVE == 1
ltl L1_answered { <> ALL_DONE }
#elif LIVE == 2
ltl L2_nobody_left { [] (ALL_DONE -> <> EMPTY) }
#elif LIVE == 3
ltl L3_lock_is_freed { [] <> !DEAD_HOLDER }
#endif
#endif
