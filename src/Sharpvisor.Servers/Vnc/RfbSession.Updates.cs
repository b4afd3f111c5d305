// One client: what is sent to it, RFC 6143, 7.6 and 7.7 (rfbproto for the extensions).
using System.Buffers.Binary;
using Sharpvisor.Core.Display;
using Sharpvisor.Servers.Vnc.Encodings;

namespace Sharpvisor.Servers.Vnc;

internal sealed partial class RfbSession
{
    private const int FlushAt = 32 * 1024;

    /// <summary>More tiles than this could make more rectangles than an update can count.</summary>
    private const int MaximumTiles = 60_000;

    private int _toldWidth;
    private int _toldHeight;

    /// <summary>Answers requests as they come, with what has changed by then: a slow client gets less, never later.</summary>
    private async Task AnswerAsync()
    {
        var limits = _context.Limits;
        var pause = limits.Frame;
        while (true)
        {
            if (_requests.Take() is not { } work)
            {
                await _requests.WaitAsync(Timeout.InfiniteTimeSpan, _end.Token).ConfigureAwait(false);
                continue;
            }

            if (await TryAnswerAsync(work).ConfigureAwait(false))
            {
                pause = limits.Frame;
                continue;
            }

            _requests.PutBack(work.Wanted);
            var next = _context.Screen.TimeToNext(_frame);
            if (await _requests.WaitAsync(next > pause ? next : pause, _end.Token).ConfigureAwait(false))
                pause = limits.Frame;
            else
                pause = pause * 1.25 < limits.IdleFrame ? pause * 1.25 : limits.IdleFrame;
        }
    }

    /// <returns>False when there is nothing that the client doesn't have.</returns>
    private async Task<bool> TryAnswerAsync(UpdateRequests.Work work)
    {
        if (work.ColourMap)
            PixelConverter.WriteColourMap(_writer);
        _frame.Dirty.Mark(work.Whole);

        RowMove? move = null;
        var mayMove = work.Settings.CopyRect && _frame.Dirty.Count == 0 && work.Wanted is { X: 0, Y: 0 } && work.Wanted.Width >= _frame.Width && work.Wanted.Height >= _frame.Height;
        _context.Screen.Capture(_frame, work.Settings.CanResize, mayMove ? screen => move = Scroll(screen) : null);

        if (_frame.Width != _toldWidth || _frame.Height != _toldHeight)
        {
            WriteSize(work.Settings, reason: 0, status: 0);
            (_toldWidth, _toldHeight) = (_frame.Width, _frame.Height);
            _requests.PutBackNews(work);
            await _writer.FlushAsync(_end.Token).ConfigureAwait(false);
            return true;
        }

        if (_frame.Dirty.Count > MaximumTiles)
            _frame.Dirty.Mark(work.Wanted);
        FindNews(work);
        var hasPixels = _frame.Dirty.TryTake(work.Wanted, out var first);
        var hasUpdate = hasPixels || move is not null || _news.Count > 0;
        if (work.Settings.ExtendedDesktopSize)
        {
            if (work.TellSize)
                WriteSize(work.Settings, reason: 0, status: 0);
            for (var i = 0; i < work.Refusals; i++)
                WriteSize(work.Settings, reason: 1, status: 1);
            hasUpdate |= work.TellSize || work.Refusals > 0;
        }

        if (!hasUpdate)
            return false;
        if (_news.Count > 0 || move is not null || hasPixels)
        {
            _writer.U8((byte)ServerMessage.FramebufferUpdate);
            _writer.U8(0);
            var count = _writer.Length;
            _writer.U16(0);
            foreach (var write in _news)
                write();
            if (move is { } rows)
                WriteMove(rows);
            var others = _news.Count + (move is null ? 0 : 1);
            await WritePixelsAsync(work, hasPixels ? first : null, others, count).ConfigureAwait(false);
        }

        await _writer.FlushAsync(_end.Token).ConfigureAwait(false);
        return true;
    }

    /// <summary>Finds rows that moved, and moves them as the client will.</summary>
    private RowMove? Scroll(Framebuffer screen)
    {
        var move = ScrollDetector.Find(_frame, screen);
        if (move is { } rows)
            _frame.MoveRows(rows.From, rows.To, rows.Count);
        return move;
    }

    private void WriteMove(RowMove move)
    {
        _writer.RectangleHead(new Area(0, move.To, _frame.Width, move.Count), Encoding.CopyRect);
        _writer.U16(0);
        _writer.U16(move.From);
    }

    /// <param name="others">Rectangles that the update has already.</param>
    /// <param name="countOffset">Where the number of rectangles goes.</param>
    private async Task WritePixelsAsync(UpdateRequests.Work work, Area? first, int others, int countOffset)
    {
        var encoder = _encoders.Get(work.Settings.Encoding, work.Settings.Level);
        List<Area> areas = [];
        for (var area = first; area is { } found; area = _frame.Dirty.TryTake(work.Wanted, out var next) ? next : null)
            areas.Add(found);
        BinaryPrimitives.WriteUInt16BigEndian(_writer.Written(countOffset, 2), (ushort)(areas.Count + others));
        var start = _context.Time.GetTimestamp();
        for (var i = 0; i < areas.Count; i++)
        {
            var sent = await WriteAreaAsync(encoder, areas[i], work.Converter).ConfigureAwait(false);
            if (!sent || !work.Settings.LastRect || i + 1 == areas.Count || _context.Time.GetElapsedTime(start) <= _context.Limits.Update)
                continue;
            // A slow client: the rest is sent as it is by then. (The count stands: not every client knows 65,535.)
            foreach (var left in areas[(i + 1)..])
                _frame.Dirty.Mark(left);
            _writer.RectangleHead(default, Encoding.LastRect);
            return;
        }
    }

    /// <returns>Whether what was written so far has been sent.</returns>
    private async ValueTask<bool> WriteAreaAsync(IRectangleEncoder encoder, Area area, PixelConverter converter)
    {
        _writer.RectangleHead(area, encoder.Encoding);
        encoder.Encode(_frame, area, converter, _writer);
        if (_writer.Length < FlushAt)
            return false;
        await _writer.FlushAsync(_end.Token).ConfigureAwait(false);
        return true;
    }

    /// <summary>An update of its own with the size of the screen.</summary>
    /// <param name="reason">0: of itself, 1: this client asked.</param>
    /// <param name="status">0: it is so, 1: prohibited.</param>
    private void WriteSize(ClientSettings settings, int reason, int status)
    {
        _writer.U8((byte)ServerMessage.FramebufferUpdate);
        _writer.U8(0);
        _writer.U16(1);
        if (!settings.ExtendedDesktopSize)
        {
            _writer.RectangleHead(new Area(0, 0, _frame.Width, _frame.Height), Encoding.DesktopSize);
            return;
        }

        _writer.RectangleHead(new Area(reason, status, _frame.Width, _frame.Height), Encoding.ExtendedDesktopSize);
        _writer.U8(1); // one screen, all of it
        _writer.Take(3).Clear();
        _writer.U32(0);
        _writer.U16(0);
        _writer.U16(0);
        _writer.U16(_frame.Width);
        _writer.U16(_frame.Height);
        _writer.U32(0);
    }
}
