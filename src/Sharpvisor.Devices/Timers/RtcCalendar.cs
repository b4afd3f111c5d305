namespace Sharpvisor.Devices.Timers;

/// <summary>A date and time of the proleptic Gregorian calendar, years 0 to 9999, that never refuses a guest's values.</summary>
internal readonly record struct RtcCalendar(int Year, int Month, int Day, int Hour, int Minute, int Second)
{
    private const int DaysOf400Years = 146_097;

    // Days from 0000-03-01, where the calendar's leap day is the last of a year, to 1970-01-01.
    private const int DaysToEpoch = 719_468;

    public static RtcCalendar FromSeconds(long secondsSince1970)
    {
        var ofDay = (int)Modulo(secondsSince1970, 86400);
        var days = FloorDivide(secondsSince1970, 86400) + DaysToEpoch;
        var era = FloorDivide(days, DaysOf400Years);
        var dayOfEra = (int)Modulo(days, DaysOf400Years);
        var yearOfEra = (dayOfEra - (dayOfEra / 1460) + (dayOfEra / 36_524) - (dayOfEra / 146_096)) / 365;
        var dayOfYear = dayOfEra - ((365 * yearOfEra) + (yearOfEra / 4) - (yearOfEra / 100));
        var month = ((5 * dayOfYear) + 2) / 153; // March is 0
        var day = dayOfYear - (((153 * month) + 2) / 5) + 1;
        var year = (era * 400) + yearOfEra + (month >= 10 ? 1 : 0);
        return new RtcCalendar(
            (int)Modulo(year, 10_000), month < 10 ? month + 3 : month - 9, day, ofDay / 3600, ofDay / 60 % 60, ofDay % 60);
    }

    /// <summary>Sunday is 1; <paramref name="shift"/> is what a guest's own weekday differs.</summary>
    public static int Weekday(long daysSince1970, int shift) => (int)Modulo(daysSince1970 + 4 + shift, 7) + 1;

    public static long FloorDivide(long value, long divisor)
    {
        var (quotient, rest) = Math.DivRem(value, divisor);
        return rest < 0 ? quotient - 1 : quotient;
    }

    public static long Modulo(long value, long divisor)
    {
        var rest = value % divisor;
        return rest < 0 ? rest + divisor : rest;
    }

    /// <summary>Days since 1970-01-01; a day behind the end of its month counts on into the next.</summary>
    public long ToDays()
    {
        long year = Month <= 2 ? Year - 1 : Year;
        var era = FloorDivide(year, 400);
        var yearOfEra = Modulo(year, 400);
        var dayOfYear = (((153 * (Month > 2 ? Month - 3 : Month + 9)) + 2) / 5) + Day - 1;
        return (era * DaysOf400Years) + (yearOfEra * 365) + (yearOfEra / 4) - (yearOfEra / 100) + dayOfYear - DaysToEpoch;
    }

    public long ToSeconds() => (ToDays() * 86400) + (Hour * 3600) + (Minute * 60) + Second;
}
