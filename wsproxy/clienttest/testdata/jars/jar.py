"""http.cookiejar with urllib, each jar with a CookieJar of its own.

    python3 jar.py PROXYPORT ROOTS

Each line of the input is the name of a jar and URLs to get in turn. The answer is a line with the bodies.
"""
import http.cookiejar
import ssl
import sys
import urllib.request

proxy = "http://127.0.0.1:" + sys.argv[1]
roots = ssl.create_default_context(cafile=sys.argv[2])
jars = {}


def opener(jar):
    if jar not in jars:
        jars[jar] = urllib.request.build_opener(
            urllib.request.ProxyHandler({"http": proxy, "https": proxy}),
            urllib.request.HTTPSHandler(context=roots),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )
    return jars[jar]


for line in sys.stdin:
    jar, *urls = line.split()
    answers = []
    for url in urls:
        with opener(jar).open(url) as answer:
            answers.append(answer.read().decode().strip())
    print(" ".join(answers), flush=True)
