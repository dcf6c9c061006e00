#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "CFuse.h"

_Thread_local struct cfuse_thread cfuse_this_thread;

int cfuse_receive_descriptor(int socket) {
    char byte;
    int descriptor;
    int count = 1;
    ssize_t length = cfuse_receive(socket, &byte, 1, &descriptor, &count);
    if (length < 0) return (int)length;
    return length == 0 || count == 0 ? -ENOMSG : descriptor;
}

enum { most_descriptors = 4 };

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(most_descriptors * sizeof(int))];
};

ssize_t cfuse_receive(int socket, void *bytes, size_t size, int *descriptors, int *count) {
    union control control;
    struct iovec data = {.iov_base = bytes, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t length;
    do length = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0) return -errno;
    int room = *count;
    *count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int came = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int place = 0; place < came; place++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + place * sizeof descriptor, sizeof descriptor);
            if (*count < room) descriptors[(*count)++] = descriptor;
            else close(descriptor);
        }
    }
    return length;
}

int cfuse_send(int socket, const void *bytes, size_t size, const int *descriptors, int count) {
    union control control;
    memset(&control, 0, sizeof control);
    struct iovec data = {.iov_base = (void *)bytes, .iov_len = size};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (count > most_descriptors) return EINVAL;
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    }
    ssize_t length;
    do length = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (length < 0 && errno == EINTR);
    return length < 0 ? errno : 0;
}

int cfuse_memory(const char *name) {
    int descriptor = memfd_create(name, MFD_CLOEXEC);
    return descriptor < 0 ? -errno : descriptor;
}

static int signal_pipe[2] = {-1, -1};

static void note_signal(int number) {
    int code = errno;
    unsigned char byte = (unsigned char)number;
    // A full pipe holds thousands that nobody has looked at: one more says nothing new.
    (void)!write(signal_pipe[1], &byte, 1);
    errno = code;
}

int cfuse_catch_signals(const int *signals, int count) {
    if (signal_pipe[0] < 0 && pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0) return -errno;
    for (int place = 0; place < count; place++) {
        struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
        if (sigaction(signals[place], &action, NULL) != 0) return -errno;
    }
    return signal_pipe[0];
}

int cfuse_watch_process(pid_t process) {
    long descriptor = syscall(SYS_pidfd_open, process, 0);
    return descriptor < 0 ? -errno : (int)descriptor;
}

int cfuse_peek_exit(pid_t process) {
    siginfo_t info = {0};
    if (waitid(P_PID, process, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != process) return -1;
    return info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
}

int cfuse_leave_descriptors(void) {
    // In one call: a table that is copied first would keep alive, for a moment, what others close meanwhile.
    return syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_UNSHARE) == 0 ? 0 : errno;
}

int cfuse_fetch_descriptor(int descriptor) {
    int process = cfuse_watch_process(getpid());
    if (process < 0) return process;
    long copy = syscall(SYS_pidfd_getfd, process, descriptor, 0);
    int code = errno;
    close(process);
    return copy < 0 ? -code : (int)copy;
}

int64_t cfuse_device_minor(const char *path) {
    struct statx result;
    if (statx(AT_FDCWD, path, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &result) != 0) return -errno;
    return result.stx_dev_minor;
}

int cfuse_walk(const char *path, bool whole) {
    int directory = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return -errno;
    const char *part = path;
    while (true) {
        while (*part == '/') part++;
        const char *end = strchrnul(part, '/');
        const char *next = end;
        while (*next == '/') next++;
        if (end == part || (*next == 0 && !whole)) return directory;
        char name[NAME_MAX + 1];
        size_t length = end - part;
        if (length > NAME_MAX) {
            close(directory);
            return -ENAMETOOLONG;
        }
        memcpy(name, part, length);
        name[length] = 0;
        int inner = openat(directory, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int error = errno;
        close(directory);
        if (inner < 0) return -error;
        directory = inner;
        part = end;
    }
}

int64_t cfuse_minor_at(int directory, const char *name) {
    struct statx result;
    int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC | (*name == 0 ? AT_EMPTY_PATH : 0);
    if (statx(directory, name, flags, STATX_TYPE, &result) != 0) return -errno;
    return result.stx_dev_major == 0 ? (int64_t)result.stx_dev_minor : -EINVAL;
}

int cfuse_close_events(void) {
    int group = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS,
                              O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_LARGEFILE | O_NOATIME);
    return group < 0 ? -errno : group;
}

int cfuse_watch_closes(int group, const char *path) {
    return fanotify_mark(group, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE, AT_FDCWD, path) == 0 ? 0 : -errno;
}

int cfuse_waiting_closes(int group) {
    int bytes = 0;
    return ioctl(group, FIONREAD, &bytes) == 0 ? bytes : -errno;
}

int cfuse_read_closes(int group, struct cfuse_close *closes, int most, bool *dropped) {
    struct fanotify_event_metadata events[64];
    size_t room = (size_t)(most < 64 ? most : 64) * sizeof events[0];
    ssize_t length = read(group, events, room);
    if (length < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    int count = 0;
    struct fanotify_event_metadata *event = events;
    for (; FAN_EVENT_OK(event, length); event = FAN_EVENT_NEXT(event, length)) {
        if (event->fd < 0) {
            if (event->mask & FAN_Q_OVERFLOW) *dropped = true;
            continue;
        }
        struct statx result;
        // DONT_SYNC: what the kernel knows will do; asking the server would be asking ourselves.
        int known = statx(event->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &result) == 0;
        closes[count].inode = known ? result.stx_ino : 0;
        closes[count].device_minor = known ? result.stx_dev_minor : 0;
        closes[count].descriptor = event->fd;
        count++;
    }
    return count;
}

int cfuse_close_from(posix_spawn_file_actions_t *actions, int first) {
    return posix_spawn_file_actions_addclosefrom_np(actions, first);
}

int cfuse_write_back(const char *directory) {
    int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return errno;
    int error = syncfs(descriptor) == 0 ? 0 : errno;
    close(descriptor);
    return error;
}
