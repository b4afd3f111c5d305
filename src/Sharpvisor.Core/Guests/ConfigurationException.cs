namespace Sharpvisor.Core.Guests;

/// <summary>
/// A mistake of the host's user: a missing file, a wrong flag, a corrupt image. The message is one line that says
/// what, where, and what to do; the command line prints it without a stack trace and exits with 2.
/// </summary>
public sealed class ConfigurationException : Exception
{
    public ConfigurationException(string message) : base(message)
    {
    }

    public ConfigurationException(string message, Exception inner) : base(message, inner)
    {
    }

    public ConfigurationException()
    {
    }
}
