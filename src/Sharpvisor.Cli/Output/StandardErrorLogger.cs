using Microsoft.Extensions.Logging;

namespace Sharpvisor.Cli.Output;

/// <summary>Log lines for a person: the message, and the stack of an internal error.</summary>
internal sealed class StandardErrorLogger(TextWriter errors) : ILogger
{
    private readonly Lock _lock = new();

    public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => logLevel >= LogLevel.Information;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (!IsEnabled(logLevel))
            return;
        lock (_lock)
        {
            errors.WriteLine($"sharpvisor: {formatter(state, exception)}");
            if (exception is not null)
                errors.WriteLine(exception);
        }
    }
}
