// Sockets with which services ask the host, as DNS does. No specification: how, is between this and SocketPoller.
using System.Net.Sockets;
using Sharpvisor.Backends.Net.User.Services;
using Sharpvisor.Core.Host;

namespace Sharpvisor.Backends.Net.User;

/// <summary>Sockets of the network's services, on its loop.</summary>
internal sealed class SocketWatch : ISocketWatch
{
    private readonly NetworkLoop _loop;
    private readonly Action _onCalled;
    private readonly Dictionary<Socket, Watched> _sockets = [];

    /// <param name="onCalled">Called after each call of a service: its deadline may be another one.</param>
    public SocketWatch(NetworkLoop loop, Action onCalled)
    {
        _loop = loop;
        _onCalled = onCalled;
    }

    public void Watch(Socket socket, Action onReadable) => _sockets.Add(socket, new Watched(this, socket, onReadable));

    public void Unwatch(Socket socket)
    {
        if (_sockets.Remove(socket, out var watched))
            watched.Stop();
    }

    private sealed class Watched : NetworkTask, ISocketHandler
    {
        private readonly SocketWatch _owner;
        private readonly Socket _socket;
        private readonly Action _onReadable;
        private readonly int _registration;
        private bool _isStopped;

        public Watched(SocketWatch owner, Socket socket, Action onReadable)
        {
            _owner = owner;
            _socket = socket;
            _onReadable = onReadable;
            _registration = owner._loop.Poller.Add(socket, this);
        }

        public void OnSocketEvent(SocketEvents events)
        {
            if ((events & (SocketEvents.Readable | SocketEvents.Failed)) != 0)
                _owner._loop.Schedule(this);
        }

        public override void Work()
        {
            if (_isStopped)
                return;
            // The poller tells about changes, the service wants to hear as long as there is something.
            if (!_socket.Poll(0, SelectMode.SelectRead))
            {
                _owner._loop.Poller.Await(_registration, SocketEvents.Readable);
                return;
            }

            _onReadable();
            _owner._onCalled();
            if (!_isStopped)
                _owner._loop.Schedule(this);
        }

        public override void OnTime(long nowMs)
        {
        }

        public void Stop()
        {
            _isStopped = true;
            _owner._loop.Poller.Remove(_registration);
        }
    }
}
