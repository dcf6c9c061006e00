#pragma once
// Neither _FILE_OFFSET_BITS nor _GNU_SOURCE here: with them `struct flock` differs from the one in Swift's Glibc module.
#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/types.h>

/// What the calling thread receives requests with, and the worker that it is: a `FuseReceiver` and a `FuseWorker`, or NULL.
/// In C since Swift has no thread-local storage that costs one instruction.
struct cfuse_thread {
    void *_Nullable receiver;
    void *_Nullable worker;
    /// The connection that the thread notifies now, and its descriptor in the thread's own table.
    void *_Nullable notified;
    int descriptor;
};
extern _Thread_local struct cfuse_thread cfuse_this_thread;

static inline void *_Nullable cfuse_receiver(void) { return cfuse_this_thread.receiver; }
static inline void *_Nullable cfuse_worker(void) { return cfuse_this_thread.worker; }
static inline int cfuse_own_descriptor(void *_Nonnull connection, int otherwise) {
    return cfuse_this_thread.notified == connection ? cfuse_this_thread.descriptor : otherwise;
}
static inline void cfuse_set_own_descriptor(void *_Nullable connection, int descriptor) {
    cfuse_this_thread.notified = connection;
    cfuse_this_thread.descriptor = descriptor;
}
static inline void cfuse_set_receiver(void *_Nullable receiver) { cfuse_this_thread.receiver = receiver; }
static inline void cfuse_set_worker(void *_Nullable worker) { cfuse_this_thread.worker = worker; }

/// Receives one descriptor that came over `socket` with SCM_RIGHTS, close-on-exec. Returns it, or -errno; -ENOMSG if none came.
int cfuse_receive_descriptor(int socket);

/// Receives one message that came over `socket`, and up to `count` (at most 4) descriptors with it, close-on-exec; sets `count` to how many came.
/// Returns the message's length, 0 when the other end is closed, or -errno.
ssize_t cfuse_receive(
    int socket, void *_Nonnull bytes, size_t size, int *_Nonnull descriptors, int *_Nonnull count);

/// Sends one message, and `count` (at most 4) descriptors with it. 0 or an errno.
int cfuse_send(int socket, const void *_Nonnull bytes, size_t size, const int *_Nullable descriptors, int count);

/// Opens the directory in which the last part of `path` (absolute) stands, or with `whole` that part itself: an O_PATH descriptor,
/// close-on-exec, or -errno. No part may be a symbolic link (ENOTDIR), so nobody who may rename above it leads it elsewhere.
int cfuse_walk(const char *_Nonnull path, bool whole);

/// The minor number of the device that is mounted at `name` in `directory`, where it is one without a disk; else -errno, -EINVAL for another.
int64_t cfuse_minor_at(int directory, const char *_Nonnull name);

/// Has the kernel write back what was changed of the filesystem at `directory`: syncfs(2). 0 or an errno.
int cfuse_write_back(const char *_Nonnull directory);

/// A file in memory, close-on-exec, that lives as long as a descriptor of it. Returns it, or -errno. `name` is what /proc shows.
int cfuse_memory(const char *_Nonnull name);

/// From now on these signals do nothing but write their number as a byte into a pipe, whose other end is returned; or -errno.
int cfuse_catch_signals(const int *_Nonnull signals, int count);

/// A descriptor that becomes readable when a process has ended. Returns it, or -errno.
int cfuse_watch_process(pid_t process);

/// How a child has ended, as wait(2) would say it, and it remains to be waited for. -1: it has not, or is no child.
int cfuse_peek_exit(pid_t process);

/// A spawned program has no descriptor from `first` on. 0 or an errno. (Hidden from Swift.)
int cfuse_close_from(posix_spawn_file_actions_t *_Nonnull actions, int first);

/// Gives the calling thread a table of descriptors of its own, with none but 0 to 2 in it. 0 or an errno.
int cfuse_leave_descriptors(void);

/// Brings a descriptor of the process into the calling thread's own table. Returns its number there, or -errno.
int cfuse_fetch_descriptor(int descriptor);

/// The minor number of the device that `path` lies on, without asking the file system's server. Returns it, or -errno.
/// statx(2) is hidden from Swift; AT_STATX_DONT_SYNC is what keeps a mount that is not served yet from blocking the caller.
int64_t cfuse_device_minor(const char *_Nonnull path);

/// Starts a fanotify group for close events, or returns -errno: EPERM where the process may not. Descriptors of events are opened
/// without blocking, since one may be a FIFO's.
int cfuse_close_events(void);

/// Adds to `group` the file system that `path` lies on. 0 or -errno.
int cfuse_watch_closes(int group, const char *_Nonnull path);

/// How many bytes of events wait in `group`, or -errno. (ioctl(2) is variadic.)
int cfuse_waiting_closes(int group);

/// Which file a writer has closed.
struct cfuse_close {
    uint64_t inode;
    uint32_t device_minor;
    /// The event's own descriptor, the caller's to close.
    int descriptor;
};

/// Reads close events that wait in `group` without blocking, at most `most`. Returns how many, or -errno;
/// `dropped` is set if the kernel had to drop some.
/// Each event comes with a descriptor that the caller closes: soon, since an open one keeps umount busy, and on a thread that nobody waits
/// for, since closing the last one of an unlinked file waits until its dirty pages are written, by our own server.
int cfuse_read_closes(int group, struct cfuse_close *_Nonnull closes, int most, bool *_Nonnull dropped);
