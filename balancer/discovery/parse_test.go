package discovery_test

import (
	"strings"
	"testing"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/balancer/discovery"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	const all = `{"id": "a", "url": "https://app.test/x", "addr": "10.0.0.1:443", "server_name": "b.test", "weight": 2,
		"zone": "z", "for_zones": ["y", "z"], "labels": {"l": "m"}, "backup": true, "max_requests": 3, "max_tunnels": 4}`
	tests := map[string]struct{ text, want string }{
		"lines":              {"a=http://10.0.0.1 b=http://10.0.0.2;weight=2\r\n\n  # c=http://10.0.0.3\nhttp://d\n", "a=http://10.0.0.1 b=http://10.0.0.2;weight=2 http://d"},
		"a byte order mark":  {"\ufeffa=http://10.0.0.1\n", "a=http://10.0.0.1"},
		"texts in JSON":      {"\n [\"a=http://10.0.0.1;backup\",\n\"http://b\"]", "a=http://10.0.0.1;backup http://b"},
		"an object":          {"[" + all + "]", "a=https://app.test/x;addr=10.0.0.1:443;server-name=b.test;weight=2;zone=z;for-zones=y,z;backup;max-requests=3;max-tunnels=4;label.l=m"},
		"a query":            {`[{"url": "http://app.test?"}]`, ""},
		"a weight of no use": {`[{"url": "http://app.test", "weight": -1}]`, "http://app.test;weight=-1"},
		"one that is null":   {`[{"url": "http://app.test", "weight": null}]`, "http://app.test"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			targets, err := discovery.Parse([]byte(tt.text))
			if tt.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			texts := make([]string, len(targets))
			for i, target := range targets {
				texts[i] = target.String()
			}
			require.Equal(t, tt.want, strings.Join(texts, " "))
		})
	}
}

func TestParse_Refuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "the file is empty",
		"\ufeff \n":                        "the file is empty",
		"#\n":                              "no targets",
		"[ ]":                              "no targets",
		"a=http://b":                       "line 1 has no line break",
		"a=http://b\n\na=http://c\n":       `line 3: the ID "a" is also in line 1`,
		"\na=http://b;weight=0\n":          `line 2: weight "0"`,
		"a=http://u:secret@b\n":            "line 1: the URL has user information",
		"[\"a=http://b\"":                  "line 1: the JSON is incomplete",
		"[\n\"a=http://b\",\n":             "line 3: the JSON is incomplete",
		"[\n\"a=http://b\"\n]\n[":          "line 4: there is more",
		"[\n\"a=http://b\"\n}":             "line 3: invalid character",
		"{\"url\": \"http://b\"}":          "line 1: the JSON is not an array",
		"[\n1]":                            "line 2: neither an object nor a string",
		"[\nnull]":                         "line 2: neither an object nor a string",
		"[\n\"\"]":                         "line 2: 0 targets",
		"[\"a=http://b c=http://d\"]":      "line 1: 2 targets",
		"[{}]":                             "line 1: there is no url",
		"[\n\n{\"url\": \"app.test:80\"}]": "line 3: the URL has no scheme",
		"[{\"url\": \"a=http://b\"}]":      "the url has an ID",
		"[{\"url\": \"http://b;backup\"}]": "the url has an ID, an option",
		"[{\"url\": \"http://b\",\n\"wieght\": 2}]":                                  `line 1: the name "wieght"`,
		"[{\"url\": \"http://b\", \"weight\": 0}]":                                   "weight is 0",
		"[{\"url\": \"http://b\", \"weight\": 1.5}]":                                 "line 1: json: cannot unmarshal",
		"[{\"url\": \"http://b\", \"max_tunnels\": -1}]":                             "max_tunnels is -1",
		"[{\"url\": \"http://b\", \"addr\": \"x\"}]":                                 "line 1: ",
		"[{\"url\": \"http://u:secret@b\"}]":                                         "line 1: ",
		"[\"http://b\",\n\"http://b:80\"]":                                           `line 2: the ID "b:80" is also in line 1`,
		"[{\"url\": \"http://b\",\n\"url\": \"http://c\"}]":                          `line 1: the name "url" is there twice`,
		"[{\"url\": \"http://b\", \"URL\": \"http://c\"}]":                           `line 1: the name "URL"`,
		"[{\"url\": \"http://b\", \"Weight\": 2}]":                                   `line 1: the name "Weight"`,
		"[{\"url\": \"http://b\", \"labels\":\n{\"x\": \"1\", \"\\u0078\": \"2\"}}]": `line 1: the name "x" is there twice`,
		"[{\"url\": \"http://b\", \"id\": \"a,b\"}]":                                 "line 1: the ID has a comma",
		"[{\"url\": \"http://b\", \"id\": \"a\\nb\"}]":                               "line 1: the ID has a comma or an unprintable",
		"[{\"url\": \"http://b\",\n\"id\": \"a\xff\"}]":                              "line 2: the text is not UTF-8",
		"a\xff=http://b\n":         "line 1: the text is not UTF-8",
		"\xff\xfea\x00=\x00\n\x00": "line 1: the text is not UTF-8", // UTF-16
		"[{\"url\": \"http://b\", \"server_name\": \"http://u:secret@c\"}]": "line 1: ",
		"[{\"url\": \"http://b\", \"server_name\": \"u:secret%@c\"}]":       "line 1: ",
		"[{\"url\": \"http://b\", \"addr\": \"http://u:secret@c\"}]":        "line 1: ",
		"[{\"url\": \"http://b\", \"http://u:secret@c\": 1}]":               "line 1: ",
		"http://b;http://u:secret@c=1\n":                                    "line 1: ",
		"http://b;server-name=u:secret@c\n":                                 "line 1: ",
	} {
		targets, err := discovery.Parse([]byte(text))
		require.ErrorContains(t, err, want, "%q", text)
		require.NotContains(t, err.Error(), "secret")
		require.Nil(t, targets)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a=http://10.0.0.1;weight=2\n# b\nc=tcp://d:1;addr=unix:/e\n")
	f.Add(`["a=http://10.0.0.1", {"id": "b", "url": "https://c", "server_name": "d", "labels": {"e": "f"}}]`)
	f.Add("[{\"url\": \"http://a\", \"weight\": null}]\n")
	f.Add("[\"\", {}")
	f.Add("\ufeff[]")
	f.Fuzz(func(t *testing.T, text string) {
		targets, err := discovery.Parse([]byte(text))
		if err != nil {
			require.Nil(t, targets)
			return
		}
		require.NotEmpty(t, targets)
		again, err := balancer.Normalize(targets...) // no ID twice, nothing that a pool refuses
		require.NoError(t, err)
		require.Equal(t, targets, again)
	})
}
