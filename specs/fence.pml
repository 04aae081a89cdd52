/* Who may write the tables of a database (palace/engine/stores/pgvector_fence.py).
 *
 * A model of its own: of the protocol it needs no more than that one process at a time has each
 * directory's lock (I1, palace.pml).  A session of the server holds the tables' lock, shared or
 * alone; a row says which incarnation has the right, and whether it left anything open.  What was
 * sent may be committed whatever becomes of its client.  The tables are the number of the change
 * that was written last.  A process that is stopped is one that takes no step; no clock is asked.
 *
 * `M_...` are broken protocols: exactly one is switched on to see that a check finds it.
 */

#ifndef ND
#define ND 2           /* directories of hosts that name the same tables */
#endif
#ifndef LIVES
#define LIVES 2        /* incarnations */
#endif
#ifndef KINDS
#define KINDS 1        /* sessions of a process: palace's own, and stock's */
#endif
#ifndef CHANGES
#define CHANGES 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef ENDS
#define ENDS 0         /* sessions that the server ends */
#endif
#ifndef FORCES
#define FORCES 0
#endif
#ifndef FAILOVERS
#define FAILOVERS 0
#endif
#ifndef COPIES
#define COPIES 0       /* of the first directory, which is the last one then */
#endif
#define N (LIVES + 1)  /* incarnations are numbered from 1, 0 is nobody */
#define NS (ND * KINDS + CRASHES * KINDS)

#ifdef SHORTEST
#define HIDDEN
#else
#define HIDDEN hidden
#endif
#ifndef F3_OFF
#define F3_OFF 0
#endif
#ifndef F5_OFF
#define F5_OFF 0
#endif
#ifndef F8_OFF
#define F8_OFF 0
#endif
HIDDEN byte F1_one_per_epoch = 0;
HIDDEN byte F2_row_names_writer = 0;
HIDDEN byte F3_epochs_rise = F3_OFF;
HIDDEN byte F4_acknowledged = 0;
HIDDEN byte F5_no_open_journal = F5_OFF;
HIDDEN byte F6_settled_is_true = 0;
HIDDEN byte F7_lost_commits_nothing = 0;
HIDDEN byte F8_living_keeps = F8_OFF;
HIDDEN byte F9_own_sessions = 0;
HIDDEN byte F10_owner_noted = 0;

/* Where a process is. */
#define OFF     0
#define ASK     1
#define AIM     2
#define READ    3
#define NOTE    4
#define WAIT    5
#define SHARE   6
#define GAP     7
#define LOAD    8
#define SERVE   9
#define LEAVE   10
#define SETTLED 11
/* How a session holds the lock. */
#define SHARED    1
#define ALONE     2
#define BOTH      3
/* What its transaction does. */
#define IDLE     0
#define SENT     1
#define DONE     2
#define CLAIMING 3
#define CLAIMED  4

typedef Palace {
	byte at; byte inc; byte line; byte ours; bit force; bit lost; bit cut;
	byte entering;       /* the session whose right is to be looked at yet, from 1 */
	bit changes; byte kind;
	byte mine[KINDS];    /* its sessions, from 1; 0 where the server has ended it */
	byte note;           /* incarnations, a bit each */
	byte open; byte before; byte last; byte by;  /* its journal */
	bit there; bit owed
};
typedef Session {
	bit used; byte dir; byte kind; byte inc; byte lock; byte txn; byte val; bit dead; bit force
};
typedef Made { byte dir; byte line; byte epoch; bit gone };

Palace p[ND];
Session s[NS];
Made made[N];
byte row, epoch, now, xrow, xepoch, xnow;    /* x: of the replica */
bit  settled, xsettled;
byte line = 1;
byte shared, alone;  /* how many sessions hold the lock shared; which one holds it alone, from 1 */
byte incs, changes, crashes, sessions_ended, forces, failovers;

/* Ghosts. */
byte wrote[N];       /* by epoch: who has committed in it */
byte top, acked;
bit  forced;

#define NOTES(d, i) ((p[d].note >> (i)) & 1)
#ifdef M_COPIED_NOTE
#define NOTED(d) (row != 0 && NOTES(d, row))
#else
#define NOTED(d) (row != 0 && NOTES(d, row) && made[row].dir == d)
#endif
#define OWN p[d].mine[0]
#define AT(n) s[(n) - 1]

inline connect(d_, k_, inc_, lock_) {
	i = 0;
	do
	:: s[i].used -> i++
	:: else -> break
	od;
	s[i].used = 1; s[i].dir = d_; s[i].kind = k_; s[i].inc = inc_; s[i].lock = lock_;
	s[i].force = p[d_].force;
	p[d_].mine[k_] = i + 1;
	if
	:: lock_ == SHARED -> shared++
	:: else
	fi;
	i = 0
}

inline unlock(n_) {
	if
	:: s[n_].lock & SHARED -> shared--
	:: else
	fi;
	if
	:: s[n_].lock & ALONE -> alone = 0
	:: else
	fi;
	s[n_].lock = 0
}

inline hang_up(n_) {
	unlock(n_);
	if
	:: !s[n_].dead -> p[s[n_].dir].mine[s[n_].kind] = 0
	:: else
	fi;
	s[n_].used = 0; s[n_].dir = 0; s[n_].kind = 0; s[n_].inc = 0; s[n_].txn = IDLE;
	s[n_].val = 0; s[n_].dead = 0; s[n_].force = 0
}

inline forget(d_) {
	p[d_].at = OFF; p[d_].inc = 0; p[d_].line = 0; p[d_].ours = 0; p[d_].force = 0;
	p[d_].lost = 0; p[d_].cut = 0; p[d_].entering = 0; p[d_].changes = 0; p[d_].kind = 0
}

inline end_all(d_) {
	j = 0;
	do
	:: j < KINDS && p[d_].mine[j] != 0 -> n = p[d_].mine[j] - 1; hang_up(n); j++
	:: j < KINDS && p[d_].mine[j] == 0 -> j++
	:: else -> break
	od;
	j = 0; n = 0;
	forget(d_)
}

inline check() {
	assert(F6_settled_is_true || row == 0 || !settled || p[made[row].dir].open == 0 ||
	       made[p[made[row].dir].by].gone);
	assert(F10_owner_noted || row == 0 || settled || NOTES(made[row].dir, row));
	assert(F4_acknowledged || forced || now >= acked)
}

inline committed(inc_) {
	assert(F7_lost_commits_nothing || made[inc_].line == line);
	assert(F1_one_per_epoch || wrote[made[inc_].epoch] == 0 || wrote[made[inc_].epoch] == inc_);
	assert(F2_row_names_writer || row == inc_);
	wrote[made[inc_].epoch] = inc_;
	check()
}

inline serves(d_) {
	assert(F4_acknowledged || !p[d_].owed || now >= p[d_].last);
	p[d_].owed = 0
}

inline terminate(d_) {
	j = 0;
	do
	:: j < NS && s[j].lock == SHARED ->
		assert(F9_own_sessions || s[j].inc != row || made[row].dir == d_);
		hang_up(j); j++
	:: j < NS && s[j].lock != SHARED -> j++
	:: else -> break
	od;
	j = 0
}

inline ask(d_) {
	p[d_].line = line;
	connect(d_, 0, 0, 0);
#ifdef M_NO_EXCLUSIVE
	p[d_].at = READ
#else
	p[d_].at = ASK
#endif
}

active [ND] proctype Owner() {
	byte d = _pid, i = 0, j = 0, n = 0;
	d_step {
		if
		:: d < ND - COPIES -> p[d].there = 1
		:: else
		fi
	}
end:	do
	/* Asking for the right. */
	:: d_step { p[d].at == OFF && p[d].there && incs < LIVES ->
P1_ask:		ask(d) }
	:: d_step { p[d].at == OFF && p[d].there && incs < LIVES && forces < FORCES ->
P1_force:	forces++; p[d].force = 1; ask(d) }
	:: d_step { p[d].at != OFF && p[d].at < LOAD && OWN == 0 ->
P1_cut:		end_all(d) }
#if defined(M_LEASE)
	:: d_step { p[d].at == ASK && OWN != 0 && alone == 0 ->
#elif defined(M_FORCED_PAST_THE_LOCK)
	:: d_step { p[d].at == ASK && OWN != 0 && alone == 0 && (shared == 0 || p[d].force) ->
#else
	:: d_step { p[d].at == ASK && OWN != 0 && alone == 0 && shared == 0 ->
#endif
P1_alone:	AT(OWN).lock = ALONE; alone = OWN; p[d].at = READ }
	:: d_step { p[d].at == ASK && OWN != 0 && (alone != 0 || shared != 0) ->
P1_owned:	end_all(d) }
#if defined(M_TERMINATES_ANYBODY)
	:: d_step { p[d].at == ASK && OWN != 0 && shared != 0 ->
#elif defined(M_TERMINATES_LATER)
	:: d_step { p[d].at == ASK && OWN != 0 && shared != 0 && NOTED(d) -> p[d].at = AIM }
	:: d_step { p[d].at == AIM && OWN != 0 ->
#else
	:: d_step { p[d].at == ASK && OWN != 0 && shared != 0 && NOTED(d) ->
#endif
P1_terminate:	terminate(d); p[d].at = ASK }
#ifdef M_NO_UNSETTLED_RULE
	:: d_step { p[d].at == READ && OWN != 0 && incs < LIVES ->
#else
	:: d_step { p[d].at == READ && OWN != 0 && incs < LIVES &&
	            (row == 0 || settled || NOTED(d) || p[d].force) ->
#endif
P2_read:	p[d].ours = (NOTED(d) -> row : 0); p[d].at = NOTE }
	:: d_step { p[d].at == READ && OWN != 0 &&
	            (incs == LIVES || !(row == 0 || settled || NOTED(d) || p[d].force)) ->
P2_unsettled:	end_all(d) }
	:: d_step { p[d].at == NOTE && OWN != 0 && incs < LIVES ->
P3_note:	incs++; p[d].inc = incs; made[incs].dir = d; made[incs].line = line;
#if defined(M_NOTE_OVERWRITTEN)
		p[d].note = 1 << incs;
#elif defined(M_NOTE_KEEPS_ONE)
		p[d].note = (1 << incs) | (p[d].ours != 0 -> 1 << p[d].ours : 0);
#elif !defined(M_NOTE_AFTER_ROW)
		p[d].note = p[d].note | (1 << incs);
#endif
		AT(OWN).inc = incs; AT(OWN).txn = CLAIMING; p[d].ours = 0; p[d].at = WAIT; check() }
	:: d_step { p[d].at == WAIT && OWN != 0 && AT(OWN).txn == CLAIMED ->
P4_share:	AT(OWN).txn = IDLE;
#ifdef M_NOTE_AFTER_ROW
		p[d].note = p[d].note | (1 << p[d].inc);
#endif
#if defined(M_UNLOCKED_BETWEEN)
		alone = 0; AT(OWN).lock = 0; p[d].at = GAP
#elif defined(M_NO_EXCLUSIVE)
		shared++; AT(OWN).lock = SHARED; p[d].at = LOAD
#else
		shared++; AT(OWN).lock = BOTH; p[d].at = SHARE
#endif
		}
#ifdef M_UNLOCKED_BETWEEN
	:: d_step { p[d].at == GAP && OWN != 0 && alone == 0 ->
		shared++; AT(OWN).lock = SHARED; p[d].at = LOAD }
#endif
	:: d_step { p[d].at == SHARE && OWN != 0 ->
P4_unlock:	alone = 0; AT(OWN).lock = SHARED; p[d].at = LOAD }

	/* Settling the journal, in its own session. */
	:: d_step { p[d].at == LOAD && !p[d].lost && p[d].entering == 0 && OWN != 0 &&
	            p[d].open != 0 && now == p[d].open ->
P5_undo:	now = p[d].before; committed(p[d].inc) }
	:: d_step { p[d].at == LOAD && !p[d].lost && p[d].entering == 0 && OWN != 0 &&
	            p[d].open != 0 && now != p[d].open ->
P5_close:	p[d].open = 0; p[d].before = 0; p[d].by = 0 }
#ifndef M_LACKS_NOT_REWRITTEN
	:: d_step { p[d].at == LOAD && !p[d].lost && p[d].entering == 0 && OWN != 0 &&
	            p[d].open == 0 && now < p[d].last ->
P5_rewrite:	now = p[d].last; committed(p[d].inc) }
	:: d_step { p[d].at == LOAD && !p[d].lost && p[d].entering == 0 && OWN != 0 &&
	            p[d].open == 0 && now >= p[d].last ->
#else
	:: d_step { p[d].at == LOAD && !p[d].lost && p[d].entering == 0 && OWN != 0 &&
	            p[d].open == 0 ->
#endif
P5_serve:	serves(d); p[d].at = SERVE }

	/* A further session: the lock first, then the row. */
	:: d_step { (p[d].at == LOAD || p[d].changes) && !p[d].lost && p[d].entering == 0 &&
	            p[d].mine[p[d].kind] == 0 &&
#if defined(M_ROW_BEFORE_LOCK)
	            p[d].line == line && row == p[d].inc ->
		p[d].entering = p[d].kind + 1 }
	:: d_step { p[d].entering != 0 && alone == 0 ->
#elif defined(M_STOCK_UNFENCED)
	            (alone == 0 || p[d].kind == 1) ->
#else
	            alone == 0 ->
#endif
P6_lock:	n = p[d].kind;
#if defined(M_STOCK_HOLDS_NOTHING)
		connect(d, n, p[d].inc, (n == 1 -> 0 : SHARED)); p[d].entering = n + 1;
#elif defined(M_STOCK_UNFENCED)
		connect(d, n, p[d].inc, (n == 1 -> 0 : SHARED)); p[d].entering = (n == 1 -> 0 : 1);
#elif defined(M_RECONNECTS_BLINDLY) || defined(M_ROW_BEFORE_LOCK)
		connect(d, n, p[d].inc, SHARED); p[d].entering = 0;
#else
		connect(d, n, p[d].inc, SHARED); p[d].entering = n + 1;
#endif
		n = 0 }
#ifndef M_ROW_BEFORE_LOCK
	:: d_step { p[d].entering != 0 && p[d].mine[p[d].entering - 1] == 0 ->
P6_cut:		p[d].entering = 0 }
#ifdef M_NO_TIMELINE
	:: d_step { p[d].entering != 0 && p[d].mine[p[d].entering - 1] != 0 && row == p[d].inc ->
#else
	:: d_step { p[d].entering != 0 && p[d].mine[p[d].entering - 1] != 0 &&
	            row == p[d].inc && p[d].line == line ->
#endif
P6_own:		p[d].entering = 0 }
	:: d_step { p[d].entering != 0 && p[d].mine[p[d].entering - 1] != 0 &&
	            (row != p[d].inc || p[d].line != line) ->
P6_lost:	n = p[d].mine[p[d].entering - 1] - 1; hang_up(n); n = 0;
		p[d].entering = 0; p[d].lost = 1 }
#endif
	:: d_step { p[d].lost ->
P6_leave:	end_all(d) }

	/* A change, in one of its sessions. */
	:: d_step { p[d].at == SERVE && !p[d].lost && !p[d].changes && changes < CHANGES ->
P7_change:	changes++; p[d].open = changes; p[d].before = now; p[d].by = p[d].inc;
		p[d].changes = 1; p[d].kind = 0; check() }
#if KINDS > 1
	:: d_step { p[d].at == SERVE && !p[d].lost && !p[d].changes && changes < CHANGES ->
P7_stock:	changes++; p[d].open = changes; p[d].before = now; p[d].by = p[d].inc;
		p[d].changes = 1; p[d].kind = 1; check() }
#endif
	:: d_step { p[d].at == SERVE && p[d].changes && p[d].entering == 0 &&
	            p[d].mine[p[d].kind] != 0 && AT(p[d].mine[p[d].kind]).txn == IDLE ->
P7_send:	n = p[d].mine[p[d].kind] - 1; s[n].txn = SENT; s[n].val = p[d].open; n = 0 }
	:: d_step { p[d].at == SERVE && p[d].changes && p[d].entering == 0 &&
	            p[d].mine[p[d].kind] != 0 && AT(p[d].mine[p[d].kind]).txn == DONE ->
P7_done:	n = p[d].mine[p[d].kind] - 1; s[n].txn = IDLE; s[n].val = 0; n = 0;
		serves(d);
		acked = (p[d].open > acked -> p[d].open : acked);
		p[d].last = p[d].open; p[d].open = 0; p[d].before = 0; p[d].by = 0;
		p[d].changes = 0; p[d].kind = 0; check() }
	:: d_step { p[d].at == SERVE && p[d].changes && p[d].mine[p[d].kind] == 0 ->
P7_stuck:	end_all(d) }

	/* Leaving. */
	:: d_step { p[d].at == LOAD && p[d].entering == 0 ->
P8_unsettled:
#ifdef M_SETTLED_UNSEEN
		p[d].at = LEAVE
#else
		end_all(d)
#endif
		}
#ifdef M_SETTLED_EARLY
	:: d_step { p[d].at == SERVE && !p[d].lost ->
#else
	:: d_step { p[d].at == SERVE && !p[d].lost && !p[d].changes ->
#endif
P8_leave:	p[d].at = LEAVE }
	:: d_step { p[d].at == LEAVE ->
P8_settle:	if
#if defined(M_SETTLES_ANYBODYS)
		:: true ->
#elif defined(M_SETTLES_ELSEWHERE)
		:: row == p[d].inc ->
#else
		:: row == p[d].inc && p[d].line == line ->
#endif
			settled = 1; p[d].at = SETTLED;
			assert(F6_settled_is_true || !p[d].owed || made[row].dir != d);
			check()
		:: else -> end_all(d)
		fi }
	:: d_step { p[d].at == SETTLED ->
P8_end:		end_all(d) }

	/* SIGKILL: the server has not missed its sessions yet. */
	:: d_step { p[d].at != OFF && crashes < CRASHES ->
V_kill:		crashes++;
		do
		:: j < KINDS && p[d].mine[j] != 0 ->
			n = p[d].mine[j] - 1; s[n].dead = 1; p[d].mine[j] = 0; j++
		:: j < KINDS && p[d].mine[j] == 0 -> j++
		:: else -> break
		od;
		j = 0; n = 0; forget(d) }
	od
}

inline commit_row(n_) {
	d = s[n_].dir; was = row; wasset = settled;
	forced = forced | (s[n_].force && !settled);
#ifdef M_EPOCH_NOT_RAISED
	epoch = (epoch == 0 -> 1 : epoch);
#else
	epoch++;
#endif
	row = s[n_].inc; made[row].epoch = epoch; s[n_].txn = CLAIMED;
#ifdef M_SETTLED_IN_SERVICE
	settled = 1;
#else
	settled = 0;
#endif
	assert(F3_epochs_rise || epoch > top);
	top = (epoch > top -> epoch : top);
	j = 0;
	do
	:: j < ND ->
		assert(F5_no_open_journal || forced || j == d || p[j].open == 0 || made[p[j].by].gone);
		j++
	:: else -> break
	od;
	j = made[was].dir;
	assert(F8_living_keeps || was == 0 || wasset || j == d || p[j].inc != was || p[j].at < LOAD ||
	       p[j].at == SETTLED || p[j].cut || p[j].lost || p[j].line != line);
	check();
	d = 0; j = 0; was = 0; wasset = 0
}

active [NS] proctype Server() {
	byte me = _pid - ND, d = 0, j = 0, was = 0;
	bit wasset = 0;
end:	do
	:: d_step { s[me].txn == SENT ->
P7_commit:	now = s[me].val; s[me].txn = DONE; committed(s[me].inc) }
	:: d_step { s[me].txn == CLAIMING ->
P3_row:		commit_row(me) }
	:: d_step { s[me].dead ->
V_miss:		hang_up(me) }
	:: d_step { s[me].used && !s[me].dead && sessions_ended < ENDS ->
V_end:		sessions_ended++; p[s[me].dir].cut = 1; hang_up(me) }
	od
}

active proctype World() {
	byte j = 0;
end:	do
#if FAILOVERS > 0
	:: d_step { failovers < FAILOVERS &&
	            (xrow != row || xepoch != epoch || xnow != now || xsettled != settled) ->
V_replicate:	xrow = row; xepoch = epoch; xnow = now; xsettled = settled }
	:: d_step { failovers < FAILOVERS && (row != 0 || xrow != 0) ->
V_failover:	failovers++; line++;
		row = xrow; epoch = xepoch; now = xnow; settled = xsettled; top = epoch;
		acked = (acked < now -> acked : now);
		do
		:: j < NS && s[j].used -> hang_up(j); j++
		:: j < NS && !s[j].used -> j++
		:: else -> break
		od;
		j = 0;
		do
		:: j < ND -> p[j].owed = (now < p[j].last); j++
		:: else -> break
		od;
		j = 1;
		do
		:: j <= LIVES ->
			wrote[j] = 0;
			made[j].gone = (j <= incs && (made[j].gone || j > row)); j++
		:: else -> break
		od;
		j = 0; check() }
#endif
#if COPIES > 0
	/* Of a journal with a change open in it, a copy is the journal's own matter. */
	:: d_step { !p[ND - 1].there && p[0].note != 0 && p[0].open == 0 ->
V_copy:		p[ND - 1].there = 1; p[ND - 1].note = p[0].note; p[ND - 1].last = p[0].last }
#endif
	:: false
	od
}
