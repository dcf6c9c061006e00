#pragma once
// Neither _FILE_OFFSET_BITS nor _GNU_SOURCE here: with them `struct flock` differs from the one in Swift's Glibc module.
#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

/// What the calling thread receives requests with, and the worker that it is: a `FuseReceiver` and a `FuseWorker`, or NULL.
/// In C since Swift has no thread-local storage that costs one instruction.
struct cfuse_thread {
    void *_Nullable receiver;
    void *_Nullable worker;
};
extern _Thread_local struct cfuse_thread cfuse_this_thread;

static inline void *_Nullable cfuse_receiver(void) { return cfuse_this_thread.receiver; }
static inline void *_Nullable cfuse_worker(void) { return cfuse_this_thread.worker; }
static inline void cfuse_set_receiver(void *_Nullable receiver) { cfuse_this_thread.receiver = receiver; }
static inline void cfuse_set_worker(void *_Nullable worker) { cfuse_this_thread.worker = worker; }

/// Receives one descriptor that came over `socket` with SCM_RIGHTS, close-on-exec. Returns it, or -errno; -ENOMSG if none came.
int cfuse_receive_descriptor(int socket);

/// The minor number of the device that `path` lies on, without asking the file system's server. Returns it, or -errno.
/// statx(2) is hidden from Swift; AT_STATX_DONT_SYNC is what keeps a mount that is not served yet from blocking the caller.
int64_t cfuse_device_minor(const char *_Nonnull path);

/// Starts a fanotify group for close events, or returns -errno: EPERM where the process may not. Descriptors of events are opened
/// without blocking, since one may be a FIFO's.
int cfuse_close_events(void);

/// Adds to `group` the file system that `path` lies on. 0 or -errno.
int cfuse_watch_closes(int group, const char *_Nonnull path);

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
