package health

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// before returns s and the suffix, or "" if s is empty.
func before(s, suffix string) string {
	if s == "" {
		return ""
	}
	return s + suffix
}

// after returns the prefix and s, or "" if s is empty.
func after(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// count formats a number with commas, or in millions.
func count(n int64) string {
	switch {
	case n < 0:
		return "0"
	case n >= 10_000_000:
		return strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + "\u00a0M"
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// perSecond formats a rate with up to three digits.
func perSecond(rate float64) string {
	switch {
	case rate == 0:
		return "0"
	case rate < 0.1:
		return "< 0.1"
	case rate < 10:
		return strconv.FormatFloat(rate, 'f', 1, 64)
	}
	return count(int64(math.Round(rate)))
}

// coarse formats a duration in whole seconds, minutes or hours.
func coarse(d time.Duration) string {
	switch d = max(0, d); {
	case d < 100*time.Second:
		return fmt.Sprintf("%d\u00a0s", int(d.Round(time.Second)/time.Second))
	case d < 100*time.Minute:
		return fmt.Sprintf("%d\u00a0min", int(d.Round(time.Minute)/time.Minute))
	}
	return fmt.Sprintf("%d\u00a0h", int(d.Round(time.Hour)/time.Hour))
}

// fine formats a duration with up to three digits.
func fine(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d\u00a0µs", d/time.Microsecond)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f\u00a0ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d\u00a0ms", d/time.Millisecond)
	}
	return fmt.Sprintf("%.1f\u00a0s", d.Seconds())
}
