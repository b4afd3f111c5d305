namespace Sharpvisor.Servers.Vnc;

/// <summary>What the reader of a client's messages leaves for the one that answers them. Both sides may call.</summary>
internal sealed class UpdateRequests : IDisposable
{
    private const int MaximumRefusals = 16;

    private readonly Lock _lock = new();
    private readonly SemaphoreSlim _wake = new(0);
    private Area? _wanted;
    private Area _whole;
    private bool _input;

    private PixelConverter _converter = new(PixelFormat.Native);
    private ClientSettings _settings = new();
    private int _refusals; // answers to SetDesktopSize that are due
    private bool _colourMap;
    private bool _announce;
    private bool _tellSize;

    public void Add(Area area, bool incremental)
    {
        lock (_lock)
        {
            _wanted = _wanted is { } earlier ? earlier.Union(area) : area;
            if (!incremental)
                _whole = _whole.Union(area);
            _tellSize |= !incremental;
        }

        Wake();
    }

    public void SetFormat(PixelFormat format)
    {
        lock (_lock)
        {
            _converter = new PixelConverter(format);
            _colourMap = !format.TrueColour;
        }
    }

    public void SetEncodings(ClientSettings settings)
    {
        lock (_lock)
        {
            _settings = settings;
            _announce = _tellSize = true;
        }
    }

    /// <summary>A client wants another size: what the guest shows is not for it to choose.</summary>
    public void RefuseSize()
    {
        lock (_lock)
            _refusals = Math.Min(_refusals + 1, MaximumRefusals);
        Wake();
    }

    /// <summary>A person does something: the screen is likely to change soon.</summary>
    public void NoteInput()
    {
        lock (_lock)
            _input = true;
        Wake();
    }

    /// <summary>What there is to do; it is the caller's then.</summary>
    /// <returns>Null while the client waits for nothing.</returns>
    public Work? Take()
    {
        lock (_lock)
        {
            if (_wanted is not { } wanted)
                return null;
            var work = new Work(wanted, _whole, _converter, _settings, _colourMap, _announce, _tellSize, _refusals);
            _wanted = null;
            _whole = default;
            _colourMap = _announce = _tellSize = false;
            _refusals = 0;
            return work;
        }
    }

    /// <summary>There was nothing to answer with: the client still waits.</summary>
    public void PutBack(Area wanted)
    {
        lock (_lock)
            _wanted = _wanted is { } later ? wanted.Union(later) : wanted;
    }

    /// <summary>The answer was only that there is another size: what else is to be told comes with the next one.</summary>
    public void PutBackNews(Work work)
    {
        lock (_lock)
        {
            _announce |= work.Announce;
            _refusals = Math.Min(_refusals + work.Refusals, MaximumRefusals);
        }
    }

    /// <summary>Waits for a message of the client, or so long.</summary>
    /// <returns>Whether somebody typed or moved the mouse.</returns>
    public async Task<bool> WaitAsync(TimeSpan time, CancellationToken cancellation)
    {
        await _wake.WaitAsync(time, cancellation).ConfigureAwait(false);
        lock (_lock)
        {
            var input = _input;
            _input = false;
            return input;
        }
    }

    public void Dispose() => _wake.Dispose();

    private void Wake()
    {
        if (_wake.CurrentCount == 0)
            _wake.Release();
    }

    /// <param name="Wanted">What the client waits for.</param>
    /// <param name="Whole">What of it also if it has not changed.</param>
    /// <param name="Announce">Tell what is understood here of what the client does.</param>
    /// <param name="TellSize">Tell a client that knows layouts the layout, though it has not changed.</param>
    /// <param name="Refusals">Answers to SetDesktopSize that are due.</param>
    public sealed record Work(Area Wanted, Area Whole, PixelConverter Converter, ClientSettings Settings, bool ColourMap, bool Announce, bool TellSize, int Refusals);
}
