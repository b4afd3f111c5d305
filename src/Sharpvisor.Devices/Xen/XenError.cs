namespace Sharpvisor.Devices.Xen;

/// <summary>What hypercalls return where they fail: negative errno values (Xen's public errno.h).</summary>
public enum XenError : long
{
    None = 0,
    EPERM = -1,
    ENOENT = -2,
    ESRCH = -3,
    E2BIG = -7,
    EAGAIN = -11,
    ENOMEM = -12,
    EACCES = -13,
    EFAULT = -14,
    EBUSY = -16,
    EEXIST = -17,
    ENODEV = -19,
    EINVAL = -22,
    ENOSPC = -28,
    ENOSYS = -38,
    ETIME = -62,
    EOPNOTSUPP = -95,
}
