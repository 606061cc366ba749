// Package tracetest checks functions that make one Trace of several.
package tracetest

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// Multi requires that the functions of what multi returns call those of all that it is given, in
// order, and that no field is forgotten. T is a struct whose fields are functions, with a function
// as their result or without any.
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

// recording returns a T whose functions, and those that they return, note who was called.
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

// called calls a hook, and what it returns, and returns who was called each time.
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
