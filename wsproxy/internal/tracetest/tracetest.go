// Package tracetest checks functions that combine several Traces into one.
package tracetest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// Multi requires that multi combines Traces correctly: each function of the result calls the same
// function of all Traces, in order, and no field is forgotten. T is a struct of functions, each of
// which returns a function or nothing.
func Multi[T any](t *testing.T, multi func(...*T) *T) {
	t.Helper()
	var calls []string
	given := []*T{recording[T]("a", &calls), nil, new(T), recording[T]("b", &calls), recording[T]("c", &calls)}
	all, alone := reflect.ValueOf(multi(given...)).Elem(), reflect.ValueOf(multi(nil, given[0])).Elem()
	require.NotZero(t, all.NumField())
	for i := range all.NumField() {
		name := all.Type().Field(i).Name
		require.Equal(t, []string{"a", "b", "c"}, called(t, name, all.Field(i), &calls), name)
		require.Equal(t, []string{"a"}, called(t, name, alone.Field(i), &calls), name)
	}
}

// recording returns a T whose functions append who to calls. The functions that they return do so,
// too.
func recording[T any](who string, calls *[]string) *T {
	hooks := new(T)
	fields := reflect.ValueOf(hooks).Elem()
	for _, field := range fields.Fields() {
		field.Set(note(field.Type(), who, calls))
	}
	return hooks
}

func note(kind reflect.Type, who string, calls *[]string) reflect.Value {
	return reflect.MakeFunc(kind, func([]reflect.Value) []reflect.Value {
		*calls = append(*calls, who)
		results := make([]reflect.Value, kind.NumOut())
		for i := range results {
			results[i] = note(kind.Out(i), who, calls)
		}
		return results
	})
}

// called calls a hook and the functions that it returns. It requires that all of them make the same
// calls, and returns these.
func called(t *testing.T, name string, hook reflect.Value, calls *[]string) []string {
	t.Helper()
	require.False(t, hook.IsNil(), "%s is forgotten", name)
	args := make([]reflect.Value, hook.Type().NumIn())
	for i := range args {
		args[i] = reflect.Zero(hook.Type().In(i))
	}
	*calls = nil
	results := hook.Call(args)
	who := *calls
	for _, result := range results {
		require.Equal(t, who, called(t, name+"'s function", result, calls), name)
	}
	return who
}
