// Connections of HTTP/1.1 that stay open: RFC 9112, 9.
using System.Net;

namespace Sharpvisor.Backends.Net.User.Services.Http;

/// <summary>
/// A connection of a guest: requests come in, one after the other is answered. While an answer is on its way, the next
/// requests wait in the buffer, and behind that at the guest. Between requests it holds no buffer.
/// </summary>
internal sealed class HttpConnection(HttpService service, IPEndPoint client, IStreamOwner owner) : IStreamPeer
{
    private byte[]? _input;
    private int _inputLength;
    private bool _hasTakenLess; // of what the guest sent than there was
    private bool _noMoreInput;

    private HttpResponse? _response;
    private byte[]? _head;
    private int _headLength, _headSent;
    private long _at; // in the file
    private bool _isLast; // no request is read any more
    private bool _isBroken;

    /// <summary>When something moved last, on the service's clock.</summary>
    public long LastProgressMs { get; private set; } = service.NowMs;

    public int Write(ReadOnlySpan<byte> data)
    {
        if (_isBroken)
            return -1;
        if (_isLast)
            return data.Length; // what follows a request that was refused; a reset could keep the guest from reading why
        var total = 0;
        var hasBegun = false;
        _input ??= service.RentBuffer();
        while (total < data.Length && _inputLength < _input.Length && !hasBegun)
        {
            var count = Math.Min(data.Length - total, _input.Length - _inputLength);
            data.Slice(total, count).CopyTo(_input.AsSpan(_inputLength));
            _inputLength += count;
            total += count;
            hasBegun = TryBegin();
        }

        _hasTakenLess = total < data.Length;
        if (total > 0)
            LastProgressMs = service.NowMs;
        ReturnInput();
        if (hasBegun)
            owner.OnReadable();
        return total;
    }

    public void EndOfInput()
    {
        _noMoreInput = true;
        owner.OnReadable();
    }

    public int Read(Span<byte> buffer)
    {
        var total = 0;
        while (!_isBroken && total < buffer.Length && (_response is not null || TryBegin()))
        {
            var count = ReadResponse(buffer[total..]);
            if (count < 0)
                Break("the file can't be read any more");
            else
                total += count;
        }

        ReturnInput();
        if (_isBroken)
            return -2;
        if (total > 0)
            LastProgressMs = service.NowMs;
        else if (_response is null && (_isLast || _noMoreInput))
            return -1;
        if (_hasTakenLess && _inputLength < HttpService.LongestHead)
        {
            _hasTakenLess = false;
            owner.OnWritable();
        }

        return total;
    }

    public void Reset() => Break("ended by the guest");

    /// <summary>Ends it in favour of others.</summary>
    public void GiveWay()
    {
        Break("too slow, and others were waiting");
        owner.OnReadable();
    }

    public void Dispose()
    {
        Break("ended by the guest");
        service.Forget(this);
    }

    /// <summary>Begins to answer the next request, if there is one.</summary>
    private bool TryBegin()
    {
        if (_response is not null || _isLast || _isBroken || _input is null)
            return false;
        var input = _input.AsSpan(0, _inputLength);
        var skipped = 0;
        while (input[skipped..].StartsWith("\r\n"u8))
            skipped += 2; // empty lines before a request (RFC 9112, 2.2)
        var rest = input[skipped..];
        var end = rest.IndexOf("\r\n\r\n"u8);
        if (end >= 0)
        {
            var status = HttpRequest.Read(rest[..(end + 4)], out var request);
            Drop(skipped + end + 4);
            Begin(status == HttpStatus.OK ? HttpResponse.Make(request, service.Content) : HttpResponse.Refuse(status, request));
            return true;
        }

        if (HasBareLineFeed(rest))
            Begin(HttpResponse.Refuse(HttpStatus.BadRequest, null));
        else if (rest.Length == _input.Length)
            Begin(HttpResponse.Refuse(HttpStatus.RequestHeaderFieldsTooLarge, null));
        else
            Drop(skipped);
        return _response is not null;
    }

    private static bool HasBareLineFeed(ReadOnlySpan<byte> text)
    {
        for (var at = text.IndexOf((byte)'\n'); at >= 0;)
        {
            if (at == 0 || text[at - 1] != '\r')
                return true;
            var next = text[(at + 1)..].IndexOf((byte)'\n');
            at = next < 0 ? -1 : at + 1 + next;
        }

        return false;
    }

    private void Drop(int count)
    {
        _input.AsSpan(count, _inputLength - count).CopyTo(_input);
        _inputLength -= count;
    }

    private void ReturnInput()
    {
        if (_inputLength == 0)
            service.ReturnBuffer(ref _input);
    }

    private void Begin(HttpResponse response)
    {
        _response = response;
        _head = service.RentBuffer();
        _headLength = response.WriteHead(_head);
        _headSent = 0;
        _at = response.Start;
        if (response.KeepsAlive)
            return;
        _isLast = true;
        _inputLength = 0;
    }

    /// <returns>How many bytes of the answer; -1: the host can't read the file.</returns>
    private int ReadResponse(Span<byte> buffer)
    {
        var count = Math.Min(buffer.Length, _headLength - _headSent);
        _head.AsSpan(_headSent, count).CopyTo(buffer);
        _headSent += count;
        if (_response!.Body is { } file)
        {
            var piece = buffer.Slice(count, (int)Math.Min(buffer.Length - count, _response.End - _at));
            try
            {
                file.Read(_at, piece);
            }
            catch (IOException)
            {
                return -1;
            }

            _at += piece.Length;
            count += piece.Length;
        }

        if (_headSent == _headLength && (_response.Body is null || _at == _response.End))
            End("");
        return count;
    }

    private void Break(string why)
    {
        if (_response is not null)
            End(", " + why);
        _isBroken = true;
        _inputLength = 0;
        ReturnInput();
    }

    private void End(string trouble)
    {
        var sent = _response!.Body is null ? 0 : _at - _response.Start;
        service.Log(client, _response, sent, trouble);
        _response.Dispose();
        _response = null;
        service.ReturnBuffer(ref _head);
    }
}
