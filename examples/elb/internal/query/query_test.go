package query_test

import (
	"encoding/xml"
	"io"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/query"
)

type call struct {
	Name    string `query:"required"`
	Count   *int
	On      bool
	Names   []string
	Parts   []part
	Options *options
}

type part struct {
	Key   string `query:"required"`
	Value int
}

type options struct{ Size int }

func TestDecode(t *testing.T) {
	three := 3
	tests := map[string]struct {
		form string
		want call
	}{
		"values":            {"Name=a&Count=3&On=true", call{Name: "a", Count: &three, On: true}},
		"unknown ones":      {"Name=a&Action=X&Version=2&Other.member.1=x", call{Name: "a"}},
		"list":              {"Name=a&Names.member.1=x&Names.member.2=y", call{Name: "a", Names: []string{"x", "y"}}},
		"by number":         {"Name=a&Names.member.10=y&Names.member.9=x", call{Name: "a", Names: []string{"x", "y"}}},
		"gaps":              {"Name=a&Names.member.2=x&Names.member.1000000=y", call{Name: "a", Names: []string{"x", "y"}}},
		"empty list":        {"Name=a&Names=", call{Name: "a", Names: []string{}}},
		"list of structs":   {"Name=a&Parts.member.1.Key=k&Parts.member.1.Value=-7", call{Name: "a", Parts: []part{{"k", -7}}}},
		"structure":         {"Name=a&Options.Size=4", call{Name: "a", Options: &options{4}}},
		"any case of true":  {"Name=a&On=True", call{Name: "a", On: true}},
		"same text twice":   {"Name=a&Names.member.1=x&Names.member.2=x", call{Name: "a", Names: []string{"x", "x"}}},
		"odd but different": {"Name=a&Name2=b&.=c&Names2.member.x=1", call{Name: "a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			form, err := url.ParseQuery(tt.form)
			require.NoError(t, err)
			var got call
			require.NoError(t, query.Decode(form, &got))
			require.Equal(t, tt.want, got)
		})
	}
}

func TestDecode_Refuses(t *testing.T) {
	tests := map[string]struct{ form, name string }{
		"nothing":               {"", "Name"},
		"empty":                 {"Name=", "Name"},
		"twice":                 {"Name=a&Name=b", "Name"},
		"member twice":          {"Name=a&Names.member.1=x&Names.member.1=y", "Names.member.1"},
		"no integer":            {"Name=a&Count=1x", "Count"},
		"huge integer":          {"Name=a&Count=99999999999999999999", "Count"},
		"no bool":               {"Name=a&On=yes", "On"},
		"list as value":         {"Name=a&Names=x", "Names"},
		"empty list and member": {"Name=a&Names=&Names.member.1=x", "Names"},
		"other than member":     {"Name=a&Names.1=x", "Names.1"},
		"no number":             {"Name=a&Names.member=x", "Names.member"},
		"number zero":           {"Name=a&Names.member.0=x", "Names.member.0"},
		"two spellings":         {"Name=a&Names.member.1=x&Names.member.01=y", "Names.member.01"},
		"plus":                  {"Name=a&Names.member.%2B1=x", "Names.member.+1"},
		"huge number":           {"Name=a&Names.member.99999999999999999999=x", "Names.member.99999999999999999999"},
		"number above a limit":  {"Name=a&Names.member.1000001=x", "Names.member.1000001"},
		"structure as value":    {"Name=a&Options=x", "Options"},
		"value as structure":    {"Name=a&Name.Key=x", "Name"},
		"missing in a member":   {"Name=a&Parts.member.3.Value=1", "Parts.member.3.Key"},
		"no UTF-8":              {"Name=%ff", "Name"},
		"a member, no UTF-8":    {"Name=a&Names.member.1=%c3", "Names.member.1"},
		"too deep":              {"Name=a&a.b.c.d.e.f.g.h.i=x", "a.b.c.d.e.f.g.h.i"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			form, err := url.ParseQuery(tt.form)
			require.NoError(t, err)
			var p *query.ParameterError
			require.ErrorAs(t, query.Decode(form, &call{}), &p)
			require.Equal(t, tt.name, p.Name)
		})
	}
	form := url.Values{}
	for i := range 6000 {
		form.Set("Names.member."+strconv.Itoa(i+1), "x")
	}
	require.ErrorIs(t, query.Decode(form, &call{}), query.ErrTooMany)
}

// flatten writes a struct as a client would.
func flatten(form url.Values, name string, v reflect.Value) {
	join := func(next string) string { return strings.TrimPrefix(name+"."+next, ".") }
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			flatten(form, name, v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			flatten(form, join(v.Type().Field(i).Name), v.Field(i))
		}
		if v.NumField() == 0 {
			form.Set(name, "")
		}
	case reflect.Slice:
		if !v.IsNil() && v.Len() == 0 {
			form.Set(name, "")
		}
		for i := range v.Len() {
			flatten(form, join("member."+strconv.Itoa(i+1)), v.Index(i))
		}
	case reflect.String:
		form.Set(name, v.String())
	case reflect.Int:
		form.Set(name, strconv.FormatInt(v.Int(), 10))
	case reflect.Bool:
		form.Set(name, strconv.FormatBool(v.Bool()))
	}
}

// What is decoded means the same when it is written down and decoded again.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"Name=a&Count=3&On=true", "Name=a&Names=", "Name=a&Names.member.7=x&Names.member.3=y&Parts.member.1.Key=k",
		"Name=a&Options.Size=4", "Name=a&Names.member.99999999999=x", "Name=a&Names.member.01=x", "Name.member.1=a", "...=x",
		"Name=a&Options=", "Name=a&Parts.member.1=", "Name=a&Count=",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		var got, again call
		if query.Decode(form, &got) != nil {
			return
		}
		require.NotEmpty(t, got.Name)
		require.LessOrEqual(t, len(got.Names), len(form))
		written := url.Values{}
		flatten(written, "", reflect.ValueOf(got))
		require.NoError(t, query.Decode(written, &again))
		require.Equal(t, got, again)
	})
}

func TestEncoder(t *testing.T) {
	type inner struct{ Key, Value string }
	type result struct {
		Text    string
		Number  int
		On      bool
		At      time.Time
		Missing *string
		None    []string
		Empty   []string
		Inner   []inner
		Pointer *inner
	}
	e := query.Encoder{Namespace: "http://example.com/doc/"}
	got := e.Answer("Do", result{
		Text: "a<b>&\x00", Number: 3, On: true, At: time.Date(2026, 11, 30, 12, 0, 0, 5e6, time.FixedZone("", 3600)),
		Empty: []string{}, Inner: []inner{{"k", ""}}, Pointer: &inner{"p", "q"},
	}, "id-1")
	require.Equal(t, `<DoResponse xmlns="http://example.com/doc/"><DoResult>`+
		`<Text>a&lt;b&gt;&amp;`+"\uFFFD"+`</Text><Number>3</Number><On>true</On><At>2026-11-30T11:00:00.005Z</At><Empty></Empty>`+
		`<Inner><member><Key>k</Key><Value></Value></member></Inner><Pointer><Key>p</Key><Value>q</Value></Pointer>`+
		`</DoResult><ResponseMetadata><RequestId>id-1</RequestId></ResponseMetadata></DoResponse>`, string(got))
	require.Equal(t, `<ErrorResponse xmlns="http://example.com/doc/"><Error><Type>Sender</Type><Code>Bad</Code><Message>&#34;x&#34;</Message></Error>`+
		`<RequestId>id-2</RequestId></ErrorResponse>`, string(e.Error("Sender", "Bad", `"x"`, "id-2")))
	wellFormed(t, e.Answer("Do", nil, "id-3"))
}

func wellFormed(t *testing.T, document []byte) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(string(document)))
	for {
		_, err := d.Token()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
	}
}
