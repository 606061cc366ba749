// Package query reads and writes the wire format of AWS's query APIs: parameters of a form in,
// XML out. Shapes are structs whose fields have the names of the parameters.
//
// A field is a string, an int, a bool, a pointer to one of these or to a struct, a struct, or a
// slice. A pointer is nil, and so is a slice, if the call does not have the parameter. An empty
// list, such as "PolicyNames=", is a slice that is empty but not nil. The tag `query:"required"`
// refuses calls without the parameter.
//
// # Security
//
// The parameters come from clients. The work is proportional to the size of the form: the number in
// "Name.member.N" only gives the order, so a large one allocates nothing.
package query

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of a call.
const (
	maxParameters = 5000
	maxDepth      = 8 // names joined by dots
	maxPlace      = 1_000_000
)

// A ParameterError says which parameter of a call is wrong.
type ParameterError struct {
	Name    string // such as "Listeners.member.1.Protocol"
	Problem string
	Missing bool // the parameter is required and not there
}

// Error implements error.
func (e *ParameterError) Error() string { return fmt.Sprintf("parameter %q %s", e.Name, e.Problem) }

// ErrTooMany reports a call with too many parameters.
var ErrTooMany = fmt.Errorf("more than %d parameters", maxParameters)

// Decode reads the parameters of the struct that into points to. Parameters that the struct does
// not have are ignored. A parameter that is there twice, or both as a value and as a structure, is
// an error, and so are two spellings of one place in a list, and values that are not UTF-8.
//
// The error is a [*ParameterError] or [ErrTooMany]. The struct must not be used then.
func Decode(form url.Values, into any) error {
	if len(form) > maxParameters {
		return ErrTooMany
	}
	root := &node{}
	for name, values := range form {
		if err := root.add(name, values); err != nil {
			return err
		}
	}
	return root.decode("", reflect.ValueOf(into).Elem())
}

// A node is a parameter, or a structure or list of parameters.
type node struct {
	value    string
	set      bool // value is there
	children map[string]*node
}

func (n *node) add(name string, values []string) error {
	parts := strings.Split(name, ".")
	if len(parts) > maxDepth {
		return &ParameterError{Name: name, Problem: "has too many dots"}
	}
	if len(values) != 1 {
		return &ParameterError{Name: name, Problem: "is there more than once"}
	}
	if !utf8.ValidString(values[0]) {
		return &ParameterError{Name: name, Problem: "is not UTF-8"}
	}
	for _, part := range parts {
		next := n.children[part]
		if next == nil {
			next = &node{}
			if n.children == nil {
				n.children = make(map[string]*node)
			}
			n.children[part] = next
		}
		n = next
	}
	n.value, n.set = values[0], true
	return nil
}

func (n *node) decode(name string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return n.decode(name, v.Elem())
	case reflect.Struct:
		return n.decodeStruct(name, v)
	case reflect.Slice:
		return n.decodeList(name, v)
	}
	if len(n.children) > 0 {
		return &ParameterError{Name: name, Problem: "has no members"}
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(n.value)
	case reflect.Bool:
		b, ok := map[string]bool{"true": true, "false": false}[strings.ToLower(n.value)]
		if !ok {
			return &ParameterError{Name: name, Problem: "must be true or false"}
		}
		v.SetBool(b)
	case reflect.Int:
		i, err := strconv.ParseInt(n.value, 10, 64)
		if err != nil {
			return &ParameterError{Name: name, Problem: "must be an integer"}
		}
		v.SetInt(i)
	default:
		panic("query: a field cannot be a " + v.Type().String())
	}
	return nil
}

func (n *node) decodeStruct(name string, v reflect.Value) error {
	if n.set && n.value != "" {
		return &ParameterError{Name: name, Problem: "is a structure and has no value of its own"}
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		full := strings.TrimPrefix(name+"."+field.Name, ".")
		child := n.children[field.Name]
		if child == nil || child.empty(field.Type) {
			if field.Tag.Get("query") == "required" {
				return &ParameterError{Name: full, Problem: "is required", Missing: true}
			}
			if child == nil {
				continue
			}
		}
		if err := child.decode(full, v.Field(i)); err != nil {
			return err
		}
	}
	return nil
}

// empty reports whether the parameter is there but says nothing. An empty list says something.
func (n *node) empty(t reflect.Type) bool {
	return n.value == "" && len(n.children) == 0 && t.Kind() != reflect.Slice
}

// decodeList reads the members in the order of their numbers. Gaps do not matter.
func (n *node) decodeList(name string, v reflect.Value) error {
	if n.set && (n.value != "" || len(n.children) > 0) {
		return &ParameterError{Name: name, Problem: "is a list: its members are " + name + ".member.1 and so on"}
	}
	members := &node{}
	for key, child := range n.children {
		if key != "member" {
			return &ParameterError{Name: name + "." + key, Problem: "is not a member of the list"}
		}
		members = child
	}
	if members.set {
		return &ParameterError{Name: name + ".member", Problem: "needs a number"}
	}
	type place struct {
		number int
		node   *node
	}
	var places []place
	for key, child := range members.children {
		number, err := placeOf(key)
		if err != nil {
			return &ParameterError{Name: name + ".member." + key, Problem: err.Error()}
		}
		places = append(places, place{number, child})
	}
	slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.number, b.number) })
	v.Set(reflect.MakeSlice(v.Type(), len(places), len(places)))
	for i, p := range places {
		if err := p.node.decode(name+".member."+strconv.Itoa(p.number), v.Index(i)); err != nil {
			return err
		}
	}
	return nil
}

// placeOf parses the N of "Name.member.N". Each number has one spelling.
func placeOf(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxPlace || strconv.Itoa(n) != text {
		return 0, errors.New("needs a number from 1 to " + strconv.Itoa(maxPlace))
	}
	return n, nil
}
