package underway

// Chain1 returns a function that calls f and then g. If one of them is nil, it returns the other
// one.
func Chain1[A any](f, g func(A)) func(A) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A) {
		f(a)
		g(a)
	}
}

// Chain2 is Chain1 for functions of two parameters.
func Chain2[A, B any](f, g func(A, B)) func(A, B) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A, b B) {
		f(a, b)
		g(a, b)
	}
}

// Chain3 is Chain1 for functions of three parameters.
func Chain3[A, B, C any](f, g func(A, B, C)) func(A, B, C) {
	switch {
	case f == nil:
		return g
	case g == nil:
		return f
	}
	return func(a A, b B, c C) {
		f(a, b, c)
		g(a, b, c)
	}
}
