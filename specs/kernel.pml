/* What the kernel keeps: open file descriptions with their flocks, names in the palace, sockets.
 *
 * A d_step here is one system call, or the end of a process: to everybody else either of them has
 * happened or has not.  (The kernel closes a dead process's descriptors one by one, but no thread
 * of it runs any more, so nobody can tell their order apart from a delay of the next process.)
 */

/* Steps of an owner; the names are those of the protocol. */
#define DOWN  0
#define B1    1    /* open broker.lock */
#define B2    2    /* flock, without waiting */
#define B3    3    /* is the name still the file that was locked? */
#define B4    4    /* mempalace's own lock */
#define B5    5    /* the next epoch, durably */
#define B6    6    /* remove the old socket, bind */
#define B6L   7    /* listen */
#define B7    8    /* the record */
#define SERVE 9    /* B8 and B9: accept; open the store beside it */
#define X1    10   /* record and socket are removed, goodbyes said */
#define X2    11
#define X3    12   /* answer the backlog */
#define X4    13   /* close the listener */
#define X5    14   /* admitted work ends, the store is closed */
#define X6    15   /* the process ends */
#define XA    16   /* only mutants come here: things done after the lock is gone */

/* A connection, as the kernel and the owner's tasks know it. */
#define NOCONN  0
#define BACKLOG 1  /* connected, HELLO sent, not yet accepted */
#define OPEN    2  /* welcomed */
#define CLOSING 3  /* goodbye said */
#define REFUSED 4  /* "draining" */
#define EOF     5  /* closed by an owner that left in order */
#define RST     6  /* its owner was killed */

/* One line of a client. */
#define NOLINE 0
#define NEW    1   /* in the ledger, not on the way */
#define SENT   2   /* in the connection's buffer */
#define ADM    3   /* admitted: past the point of no refusal */
#define RAN    4   /* carried out, the reply is not out yet */
#define REPLY  5   /* in the client's buffer */
#define UNK    6   /* "outcome unknown" is in the client's buffer */
#define UNRUN  7   /* handed back by a goodbye */

#define STOCK  255 /* as holder of mempalace's lock */
#define TORN   255 /* a record that can't be read */

/* An incarnation is one life of one slot that got the lock; they are numbered from 1. */
#define INC(o)     ((o) * LIVES + life[o])
#define OWN(i)     (((i) - 1) / LIVES)
#define NEWEST(i)  (life[OWN(i)] == ((i) - 1) % LIVES + 1)
#define ALIVE(i)   ((i) != 0 && (i) != TORN && NEWEST(i) && pc[OWN(i)] >= B3)
#define LISTENS(i) ((i) != 0 && ((NEWEST(i) && lst[OWN(i)]) || heir_lst == (i)))
#define STARTED(o) (pc[o] != DOWN)

byte pc[NO];          /* what an owner does next */
byte life[NO];        /* how often this slot has had the lock */
byte ino[NO];         /* inode of the lock file that it has open */
byte myep[NO];        /* its epoch */
bit  db[NO];          /* it has the store open */
bit  lst[NO];         /* its listener is open */

byte holder[INODES];  /* flock: inode -> slot + 1 (the OFD), 0 where nobody has it */
#ifdef COARSE
byte linked = 1, inodes = 1;
#else
byte linked;          /* inode that broker.lock names, 0 before the first open */
byte inodes;          /* how many lock files there ever were */
#endif
byte mlock;           /* mempalace's own lock of this home */
byte sock;            /* broker.sock: the incarnation that bound it */
byte rec;             /* broker.json: the incarnation that it names */
byte recep;           /* and its epoch */
byte ep;              /* the epoch file */

byte acc[NC];         /* the connection of client c */
byte peer[NC];        /* the incarnation at its other end */
bit  bye[NC];         /* a goodbye is in its buffer */
byte req[NC];         /* its line */
bit  maybe[NC];       /* the line may have run under an earlier owner */

/* What a client does. */
#define IDLE   1   /* nothing unsettled and no connection: it dials when its client asks */
#define DIAL   0
#define GREET  3   /* HELLO sent */
#define CONN   4   /* welcomed */
#define PART   5   /* goodbye read: nothing new goes to this owner */
#define CHILD  6   /* direct mode: waits for its own child */
#define DONE   7
#define CM     8   /* only mutants come here */

byte cpc[NC];
byte asked[NC];    /* lines that its MCP client has asked so far */
#ifdef CLIENT_EPOCH
byte cep[NC];      /* the greatest epoch that it was welcomed with */
#endif

#if NC == 1
#define ALL_DONE (cpc[0] == DONE)
#define WAITING (acc[0] == BACKLOG)
#else
#define ALL_DONE (cpc[0] == DONE && cpc[1] == DONE)
#define WAITING ((acc[0] == BACKLOG) + (acc[1] == BACKLOG))
#endif

byte crashes;
#ifdef ERRORS
byte errors;          /* flock calls that failed */
#endif
#ifdef HANGS
byte hung, hangs;     /* slot + 1 of the owner whose writer is stuck; how often that happened */
#define HUNG(o) (hung == o + 1)
#else
#define HUNG(o) false
#endif
#if defined(M_PID_ALIVE) || defined(M_PID_KILL)
bit  reused;          /* the pid in the record is somebody else's now */
#endif
byte heir_lst;        /* listener that a child of a dead owner has inherited (mutant only) */
bit  sdb, gdb, wdb;   /* store open in: stock, a guest, an orphaned worker */

HIDDEN byte i;        /* scratch inside one d_step */

/* Ghosts: what the checks remember. */
byte lastep;          /* epoch of the last owner that opened the store */
byte runs[NC];        /* how often the client's present line was carried out */

/* What a client reads from its connection. */

#define WELCOMED(c) (cpc[c] == CONN || cpc[c] == PART)
/* The end of a connection is read after all that is in its buffer. */
#define READ_ALL(c) (WELCOMED(c) && !bye[c] && req[c] != REPLY && req[c] != UNK)

inline drop(c) {
	acc[c] = NOCONN;
	peer[c] = 0;
	bye[c] = 0
}

inline settle(c) {
	req[c] = NOLINE;
	maybe[c] = 0;
	runs[c] = 0
}

inline take_welcome(c) {
#ifdef CLIENT_EPOCH
	assert(I6_epoch || myep[OWN(peer[c])] >= cep[c]);
	cep[c] = myep[OWN(peer[c])];
#endif
	cpc[c] = CONN
}

inline take_reply(c) {
	assert(I8_exactly_once || req[c] == UNK || runs[c] == 1);
	settle(c)
}

/* Lines after the last that was read, and those named, did not run: they are new again. */
inline take_goodbye(c) {
	if
#ifdef M_GOODBYE_LIES
	:: req[c] == SENT || req[c] == UNRUN || req[c] == RAN -> req[c] = NEW
#else
	:: req[c] == SENT || req[c] == UNRUN -> req[c] = NEW
#endif
	:: else
	fi;
	bye[c] = 0;
	cpc[c] = PART
}

/* Without a goodbye, what was sent may have run. */
inline take_end(c) {
	if
	:: acc[c] == RST && (req[c] == SENT || req[c] == ADM || req[c] == RAN) -> maybe[c] = 1; req[c] = NEW
	:: else
	fi;
	drop(c);
	cpc[c] = (req[c] == NOLINE -> IDLE : DIAL)
}

/* In a coarse world clients read at once what reaches them.  Reading changes nothing that others
 * see, so only the lines that cross a goodbye are lost to the search; the fine worlds have them. */
inline read_now(c) {
#ifdef COARSE
	if
	:: cpc[c] == GREET && acc[c] == OPEN -> take_welcome(c)
	:: cpc[c] == GREET && acc[c] >= REFUSED -> drop(c); cpc[c] = DIAL
	:: else
	fi;
	if
	:: WELCOMED(c) && (req[c] == REPLY || req[c] == UNK) -> take_reply(c)
	:: else
	fi;
	if
	:: WELCOMED(c) && bye[c] -> take_goodbye(c)
	:: else
	fi;
	if
	:: acc[c] >= EOF && READ_ALL(c) -> take_end(c)
	:: else
	fi;
	if
	:: cpc[c] == CONN && acc[c] == OPEN && req[c] == NEW -> req[c] = SENT
	:: else
	fi
#else
	skip
#endif
}

inline unlock(o) {
	if
	:: ino[o] != 0 && holder[ino[o]] == o + 1 -> holder[ino[o]] = 0
	:: else
	fi
}

/* The other ends see an end of file, or a reset: what is in their buffers stays readable. */
inline hang_up(o, how) {
	i = 0;
	do
	:: i < NC ->
		if
		:: peer[i] == INC(o) && acc[i] != NOCONN ->
			assert(I9_no_silent_drop || how == RST || acc[i] != OPEN);
			assert(I14_admitted_ends || how == RST || (req[i] != ADM && req[i] != RAN));
			acc[i] = how;
			read_now(i)
		:: else
		fi;
		i++
	:: else -> break
	od
}

/* The end of a process.  Files stay; the lock goes with the last descriptor. */
inline die(o, how) {
	if
	:: pc[o] >= B3 -> hang_up(o, how)   /* before, INC(o) is not its number yet */
	:: else
	fi;
#ifdef HANGS
	if
	:: HUNG(o) -> hung = 0
	:: else
	fi;
#endif
#ifdef M_WORKER_STORE
	wdb = wdb | db[o];       /* the worker that has the store open lives on */
#endif
	db[o] = 0;
#ifdef M_LISTENER_INHERITED
	if
	:: lst[o] && how == RST -> heir_lst = INC(o)
	:: else
	fi;
#endif
	lst[o] = 0;
#ifdef M_LOCK_INHERITED
	/* A child that outlives its parent shares the OFD: the kernel keeps the lock. */
	if
	:: how == RST && pc[o] >= SERVE
	:: else -> unlock(o)
	fi;
#else
	unlock(o);
#endif
	if
	:: mlock == o + 1 -> mlock = 0
	:: else
	fi;
	ino[o] = 0;
	myep[o] = 0;
	pc[o] = DOWN
}

/* A starter that gives up has left no trace: it may be started again as the same life. */
inline give_up(o) {
	unlock(o);
	if
	:: mlock == o + 1 -> mlock = 0
	:: else
	fi;
	ino[o] = 0;
	pc[o] = DOWN
}
