/* Preloaded into brokers: counts the system calls that touch one directory, and ends the process
 * with SIGKILL before one of them, or lets that one fail.
 *
 * STEPSROOT is the palace.  The first `palace serve` that finds the file STEPSARMED takes it away
 * and is the one that counts.  The file holds the number of the call (0: none) and its errno (0: the
 * process dies).  Each call is appended to the file STEPSLOG, as "NAME PATH".
 *
 * strace's inject counts each system call of each thread apart, so that its "n-th" names no point
 * in the life of a process with threads.  This counts all of them together.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static const char *root;
static size_t root_length;
static const char *log_path;
static long marked;
static int failure;
static atomic_long count;

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_broker(void) {
    char words[4096];
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t size = syscall(SYS_read, fd, words, sizeof words - 1);
    syscall(SYS_close, fd);
    for (ssize_t at = 0; at < size; at += (ssize_t)strnlen(words + at, (size_t)(size - at)) + 1)
        if (size - at >= 6 && !memcmp(words + at, "serve", 6)) return 1;
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *armed = getenv("STEPSARMED"), *given = getenv("STEPSROOT");
    char taken[4096], text[32] = "";
    log_path = getenv("STEPSLOG");
    if (!armed || !log_path || !given || !is_broker()) return;
    snprintf(taken, sizeof taken, "%s.%ld", armed, (long)getpid());
    if (syscall(SYS_renameat, AT_FDCWD, armed, AT_FDCWD, taken)) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, taken, O_RDONLY | O_CLOEXEC);
    if (syscall(SYS_read, fd, text, sizeof text - 1) < 0) return;
    syscall(SYS_close, fd);
    syscall(SYS_unlinkat, AT_FDCWD, taken, 0);
    if (sscanf(text, "%ld %d", &marked, &failure) != 2) return;
    root_length = strlen(given);
    root = given;
}

/* Return whether the call must fail; errno is set then. */
static int step(const char *name, const char *path) {
    char line[4200];
    long number = atomic_fetch_add(&count, 1) + 1;
    int size = snprintf(line, sizeof line, "%s %s\n", name, path + root_length);
    /* Opened again each time: a broker closes at its start whatever it finds open. */
    int fd = (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (syscall(SYS_write, fd, line, size) < 0) abort();
    syscall(SYS_close, fd);
    if (number != marked) return 0;
    if (!failure) syscall(SYS_kill, getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int is_below(const char *path) { return path && !strncmp(path, root, root_length); }

static int at_path(const char *name, const char *path) {
    return root && is_below(path) && step(name, path);
}

static int at_fd(const char *name, int fd) {
    char link[64], path[4096];
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    if (!root || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (is_below(path)) return step(name, path);
    if (strncmp(path, "socket:", 7)) return 0;
    memset(&address, 0, sizeof address);
    return !syscall(SYS_getsockname, fd, &address, &size) && address.sun_family == AF_UNIX &&
           is_below(address.sun_path) && step(name, address.sun_path);
}

#define OPEN(name)                                                                                 \
    int name(const char *path, int flags, ...) {                                                   \
        va_list more;                                                                              \
        va_start(more, flags);                                                                     \
        mode_t mode = va_arg(more, mode_t);                                                        \
        va_end(more);                                                                              \
        if (at_path("open", path)) return -1;                                                      \
        return NEXT(name)(path, flags, mode);                                                      \
    }
OPEN(open)
OPEN(open64)


int unlink(const char *path) { return at_path("unlink", path) ? -1 : NEXT(unlink)(path); }

int mkdir(const char *path, mode_t mode) {
    return at_path("mkdir", path) ? -1 : NEXT(mkdir)(path, mode);
}

int rename(const char *old, const char *new) {
    return at_path("rename", new) ? -1 : NEXT(rename)(old, new);
}

int bind(int fd, const struct sockaddr *address, socklen_t size) {
    const char *path = ((const struct sockaddr_un *)address)->sun_path;
    int ours = address->sa_family == AF_UNIX && at_path("bind", path);
    return ours ? -1 : NEXT(bind)(fd, address, size);
}

/* posix_fallocate returns its errno; all else returns -1. */
#define FAILED(name) (strncmp(name, "posix_", 6) ? -1 : errno)

#define FD(type, name, parameters, ...)                                                            \
    type name parameters {                                                                         \
        return at_fd(#name, fd) ? (type)FAILED(#name) : NEXT(name)(__VA_ARGS__);                   \
    }
FD(int, flock, (int fd, int how), fd, how)
FD(int, fsync, (int fd), fd)
FD(int, fdatasync, (int fd), fd)
FD(int, close, (int fd), fd)
FD(int, ftruncate, (int fd, off_t size), fd, size)
FD(int, ftruncate64, (int fd, off64_t size), fd, size)
FD(int, fallocate, (int fd, int mode, off_t at, off_t size), fd, mode, at, size)
FD(int, fallocate64, (int fd, int mode, off64_t at, off64_t size), fd, mode, at, size)
FD(int, posix_fallocate, (int fd, off_t at, off_t size), fd, at, size)
FD(int, posix_fallocate64, (int fd, off64_t at, off64_t size), fd, at, size)
FD(ssize_t, write, (int fd, const void *data, size_t size), fd, data, size)
FD(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), fd, data, size, at)
FD(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), fd, data, size, at)
FD(ssize_t, send, (int fd, const void *data, size_t size, int flags), fd, data, size, flags)
FD(ssize_t, recv, (int fd, void *data, size_t size, int flags), fd, data, size, flags)
FD(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), fd, message, flags)
FD(int, listen, (int fd, int backlog), fd, backlog)
FD(int, accept4, (int fd, struct sockaddr *peer, socklen_t *size, int flags), fd, peer, size, flags)
FD(int, shutdown, (int fd, int how), fd, how)
