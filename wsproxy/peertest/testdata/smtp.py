"""A mail server as far as checks go: python3 smtp.py HOST PORT. It greets in two lines, and in many packets."""
import asyncio
import sys


async def serve(reader, writer):
    for octet in b"220-mail.example ESMTP\r\n220 ready\r\n":
        writer.write(bytes([octet]))
        await writer.drain()
        await asyncio.sleep(0)
    while line := await reader.readline():
        verb = line.split()[0].upper() if line.split() else b""
        if verb == b"QUIT":
            writer.write(b"221 2.0.0 Bye\r\n")
            break
        writer.write(b"250 mail.example\r\n" if verb in (b"EHLO", b"NOOP") else b"502 5.5.2 not known: " + line)
    await writer.drain()
    writer.close()


async def main(host, port):
    server = await asyncio.start_server(serve, host, int(port))
    await server.serve_forever()

asyncio.run(main(*sys.argv[1:]))
