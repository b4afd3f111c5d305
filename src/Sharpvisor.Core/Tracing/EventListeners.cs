namespace Sharpvisor.Core.Tracing;

/// <summary>What the listeners of <see cref="GuestEventSource"/> want, known without making it.</summary>
internal static class EventListeners
{
    private static int _wanted;

    public static event Action? Changed;

    public static TraceKind Wanted
    {
        get => (TraceKind)Volatile.Read(ref _wanted);
        set
        {
            Volatile.Write(ref _wanted, (int)value);
            Changed?.Invoke();
        }
    }
}
