namespace Sharpvisor.Servers.Control;

/// <summary>The classes of errors that QMP knows; all but a few are <see cref="GenericError"/>.</summary>
public enum ErrorClass
{
    GenericError,
    CommandNotFound,
    DeviceNotActive,
    DeviceNotFound,
    KVMMissingCap,
}

/// <summary>A command that a monitor or QMP refuses; the message is one line for whoever gave it.</summary>
public sealed class ControlException : Exception
{
    public ControlException(ErrorClass errorClass, string message) : base(message) => Class = errorClass;

    public ControlException(string message) : base(message)
    {
    }

    public ControlException(string message, Exception inner) : base(message, inner)
    {
    }

    public ControlException()
    {
    }

    public ErrorClass Class { get; }
}
