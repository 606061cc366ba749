// tough-cookie with Node's own client, each jar a CookieJar of its own.
//
//	node jar.js HTTPPORT HTTPSPORT ROOTS
//
// Each line of the input is the name of a jar and URLs to get in turn, from this machine whatever their host. The answer is
// a line with the bodies.
'use strict';
const fs = require('fs');
const http = require('http');
const https = require('https');
const readline = require('readline');
const {CookieJar} = require('tough-cookie');

const [httpPort, httpsPort, roots] = process.argv.slice(2);
const ca = fs.readFileSync(roots);
const agents = {
  'http:': new http.Agent({keepAlive: true}),
  'https:': new https.Agent({keepAlive: true, ca}),
};
const jars = new Map();

function get(jar, address) {
  const url = new URL(address);
  const headers = {host: url.host};
  const cookies = jar.getCookieStringSync(address);
  if (cookies) {
    headers.cookie = cookies;
  }
  const secure = url.protocol === 'https:';
  const options = {
    host: '127.0.0.1', port: secure ? httpsPort : httpPort, servername: url.hostname,
    path: url.pathname + url.search, agent: agents[url.protocol], headers,
  };
  return new Promise((resolve, reject) => {
    (secure ? https : http).get(options, (answer) => {
      for (const line of answer.headers['set-cookie'] || []) {
        jar.setCookieSync(line, address, {ignoreError: true});
      }
      let body = '';
      answer.on('data', (chunk) => body += chunk);
      answer.on('end', () => resolve(body.trim()));
    }).on('error', reject);
  });
}

(async () => {
  for await (const line of readline.createInterface({input: process.stdin})) {
    const [name, ...urls] = line.split(' ');
    if (!jars.has(name)) {
      jars.set(name, new CookieJar());
    }
    const answers = [];
    for (const url of urls) {
      answers.push(await get(jars.get(name), url));
    }
    process.stdout.write(answers.join(' ') + '\n');
  }
  process.exit(0);
})();
