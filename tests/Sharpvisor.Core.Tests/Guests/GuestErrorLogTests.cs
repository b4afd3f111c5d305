using Microsoft.Extensions.Logging;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Core.Tests.Guests;

public sealed class GuestErrorLogTests
{
    [Fact]
    public void Each_kind_is_logged_once_counted_always_and_traced_with_its_values()
    {
        var logger = new ListLogger();
        List<string> trace = [];
        var errors = new GuestErrorLog(logger) { Trace = trace.Add };
        for (var i = 0; i < 1000; i++)
            errors.Report("hpet", "reserved bits", $"0x{i:x}");
        errors.Report("hpet", "reserved register");

        Assert.Equal(2, logger.Lines.Count);
        Assert.Contains("0x0", logger.Lines[0], StringComparison.Ordinal);
        Assert.Equal(1000, errors.Counts["hpet: reserved bits"]);
        Assert.Equal(1, errors.Counts["hpet: reserved register"]);
        Assert.Equal(1001, trace.Count);
        Assert.Equal("hpet: reserved bits 0x3e7", trace[999]);
        Assert.Equal("hpet: reserved register", trace[1000]);
    }

    [Fact]
    public void Counts_are_exact_from_several_threads()
    {
        var logger = new ListLogger();
        var errors = new GuestErrorLog(logger);
        Parallel.For(0, 4, _ =>
        {
            for (var i = 0; i < 1000; i++)
                errors.Report("pit", "mode");
        });
        Assert.Equal(4000, errors.Counts["pit: mode"]);
        Assert.Single(logger.Lines);
    }

    private sealed class ListLogger : ILogger
    {
        public List<string> Lines { get; } = [];

        public IDisposable? BeginScope<TState>(TState state) where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            lock (Lines)
                Lines.Add(formatter(state, exception));
        }
    }
}
