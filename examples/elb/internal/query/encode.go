package query

import (
	"bytes"
	"encoding/xml"
	"reflect"
	"strconv"
	"time"
)

// timeLayout is how times are written, in UTC.
const timeLayout = "2006-01-02T15:04:05.000Z"

// An Encoder writes the documents of one API.
type Encoder struct {
	Namespace string
}

// Answer returns the document that answers an action. result is a struct. Nil pointers and nil
// slices in it are left out. Nil means that the action has no result, only an empty element.
func (e Encoder) Answer(action string, result any, requestID string) []byte {
	var b bytes.Buffer
	b.WriteString("<" + action + "Response xmlns=\"" + e.Namespace + "\">")
	open(&b, action+"Result")
	if result != nil {
		write(&b, reflect.ValueOf(result))
	}
	shut(&b, action+"Result")
	open(&b, "ResponseMetadata")
	element(&b, "RequestId", requestID)
	shut(&b, "ResponseMetadata")
	shut(&b, action+"Response")
	return b.Bytes()
}

// Error returns the document of an error. kind is "Sender" or "Receiver".
func (e Encoder) Error(kind, code, message, requestID string) []byte {
	var b bytes.Buffer
	b.WriteString("<ErrorResponse xmlns=\"" + e.Namespace + "\">")
	open(&b, "Error")
	element(&b, "Type", kind)
	element(&b, "Code", code)
	element(&b, "Message", message)
	shut(&b, "Error")
	element(&b, "RequestId", requestID)
	shut(&b, "ErrorResponse")
	return b.Bytes()
}

func open(b *bytes.Buffer, name string) { b.WriteString("<" + name + ">") }
func shut(b *bytes.Buffer, name string) { b.WriteString("</" + name + ">") }

func element(b *bytes.Buffer, name, text string) {
	open(b, name)
	xml.EscapeText(b, []byte(text)) // a bytes.Buffer returns no errors
	shut(b, name)
}

// write writes the content of an element.
func write(b *bytes.Buffer, v reflect.Value) {
	if t, ok := v.Interface().(time.Time); ok {
		b.WriteString(t.UTC().Format(timeLayout))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		write(b, v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); !absent(f) {
				name := v.Type().Field(i).Name
				open(b, name)
				write(b, f)
				shut(b, name)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			open(b, "member")
			write(b, v.Index(i))
			shut(b, "member")
		}
	case reflect.String:
		xml.EscapeText(b, []byte(v.String()))
	case reflect.Int:
		b.WriteString(strconv.FormatInt(v.Int(), 10))
	case reflect.Bool:
		b.WriteString(strconv.FormatBool(v.Bool()))
	default:
		panic("query: a field cannot be a " + v.Type().String())
	}
}

func absent(v reflect.Value) bool {
	return (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) && v.IsNil()
}
