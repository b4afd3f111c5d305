// A line without connections as a server's endpoint: a pseudo terminal, standard input and output, or any other character
// backend. One client at a time; who that is, and when it has gone, the kind of line tells (LineClient).
using Sharpvisor.Backends.Char;
using Sharpvisor.Core.Char;
using Sharpvisor.Core.Guests;

namespace Sharpvisor.Servers.Endpoints;

/// <summary>When somebody is at the other end of a line.</summary>
internal enum LineClient
{
    /// <summary>Always, a person who wants to see a prompt.</summary>
    AtOnce,

    /// <summary>From the first byte until the end hangs up; then the next one.</summary>
    WithFirstByte,

    /// <summary>From when what is typed on a shared terminal first comes here.</summary>
    WithFocus,
}

internal sealed class LineEndpoint : ServerEndpoint
{
    private readonly ICharBackend _backend;
    private readonly LineClient _client;
    private readonly bool _isOwner;
    private readonly LineStream _stream;
    private bool _hadClient;

    /// <param name="isOwner">Disposes the backend, too.</param>
    public LineEndpoint(ICharBackend backend, LineClient client, bool isOwner = true)
    {
        _backend = backend;
        _client = client;
        _isOwner = isOwner;
        Name = backend is PtyCharBackend pty ? pty.Path : backend.Name;
        _stream = new LineStream(backend, endsWithHangUp: client == LineClient.WithFirstByte);
        _stream.Attach();
    }

    public override string Name { get; }

    public override bool TakesSeveral => false;

    public override async Task<ServerClient?> AcceptAsync(CancellationToken cancellation)
    {
        // Behind a client that is always there nobody comes; it was an error that ended its session, and a key begins the next.
        if (_client == LineClient.WithFirstByte || _hadClient)
        {
            if (!await _stream.RenewAsync(cancellation).ConfigureAwait(false))
                return null;
        }
        else if (_client == LineClient.WithFocus)
        {
            await _stream.FirstFocus.WaitAsync(cancellation).ConfigureAwait(false);
        }

        _hadClient = true;
        return new ServerClient(_stream, Name);
    }

    public override async ValueTask DisposeAsync()
    {
        if (_isOwner)
            await _backend.DisposeAsync().ConfigureAwait(false);
        _stream.End();
    }
}
