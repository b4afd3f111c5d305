namespace Sharpvisor.Devices.Xen.Store;

/// <summary>Why an operation on the store failed: the errno names that the wire protocol knows (xs_wire.h).</summary>
public enum StoreError
{
    None,

    /// <summary>A path, permission or message that is none.</summary>
    EINVAL,
    EACCES,
    EEXIST,
    EISDIR,
    ENOENT,
    ENOMEM,

    /// <summary>A domain has as many nodes or transactions as it may.</summary>
    ENOSPC,

    /// <summary>A value, a list of permissions, a message or the number of watches is more than is allowed.</summary>
    E2BIG,
    EIO,
    ENOTEMPTY,
    ENOSYS,
    EROFS,
    EBUSY,

    /// <summary>What a transaction has looked at was changed by others meanwhile: begin again.</summary>
    EAGAIN,
    EISCONN,
}
