/* The single-writer protocol: election, serving, leaving, dying (docs/design.md).
 *
 * Who owns the palace is decided by one flock; everything else is a hint.  This file sizes the
 * world and starts it; the steps stand in
 *   kernel.pml   locks, names, sockets, death
 *   owner.pml    brokers and direct openers: B1..B9, X0..X6; the tasks of one connection
 *   client.pml   shims: C1..C6, D0..D3
 *   world.pml    stock writers, guests, SIGKILL, reboot, and the checks
 * The journal has a model of its own (journal.pml) that builds on I1.
 *
 * Each option of a `do` is one step that the real code takes without anything of the same process
 * in between; SIGKILL and all other processes may come between any two of them.  Every option
 * begins with a label: the runner demands that each was reached.  `M_...` are broken protocols:
 * exactly one is switched on to see that a check finds it.
 */

#ifndef NB
#define NB 2           /* brokers */
#endif
#ifndef ND
#define ND 2           /* direct openers: opener d is the child of client d */
#endif
#define NO (NB + ND)
#ifndef LIVES
#define LIVES 2        /* how often one broker slot may become the owner */
#endif
#ifndef DLIVES
#define DLIVES 1       /* the same of a direct opener */
#endif
#ifndef NC
#define NC 2           /* clients */
#endif
#ifndef LINES
#define LINES 1        /* lines (changes) that each client asks */
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#define INODES 8       /* lock files that may ever be made (the protocol makes one), from 1 */

/* Outside of the state, but not in a breadth-first search, which can't have that. */
#ifdef SHORTEST
#define HIDDEN
#else
#define HIDDEN hidden
#endif

/* The checks carry their names into the checker's message.  They are 0; -DI2_OFF=1 and the
 * like silence one, to see what a mutant does to the others. */
#ifndef I2_OFF
#define I2_OFF 0
#endif
#ifndef I4_OFF
#define I4_OFF 0
#endif
#ifndef I6_OFF
#define I6_OFF 0
#endif
#ifndef I10_OFF
#define I10_OFF 0
#endif
#ifndef I11_OFF
#define I11_OFF 0
#endif
HIDDEN byte I1_single_writer = 0;
HIDDEN byte I2_right_to_open = I2_OFF;
HIDDEN byte I3_published_bound = 0;
HIDDEN byte I4_own_files = I4_OFF;
HIDDEN byte I5_store_behind_reply = 0;
HIDDEN byte I6_epoch = I6_OFF;
HIDDEN byte I8_exactly_once = 0;
HIDDEN byte I9_no_silent_drop = 0;
HIDDEN byte I10_guest = I10_OFF;
HIDDEN byte I11_lock_file_forever = I11_OFF;
HIDDEN byte I12_nobody_killed = 0;
HIDDEN byte I13_holder_named = 0;
HIDDEN byte I14_admitted_ends = 0;

#include "kernel.pml"
#include "owner.pml"
#include "client.pml"
#include "world.pml"
