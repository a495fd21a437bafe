import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:net";

/** From which ports are chosen, where the kernel leaves it alone: above what servers usually have, below Services' node ports. */
const first = 15_000;
const last = 29_999;

/**
 * `count` different loopback ports that were free a moment ago. Another process may still take one before its use.
 *
 * They are none that the kernel gives to connections, if it leaves others: who starts anew on its port would find it taken, for as
 * long as the connection lasts, by somebody who called anybody meanwhile.
 */
export async function freePorts(count: number): Promise<number[]> {
  const choose = isGiven(first, last) ? () => 0 : () => randomInt(first, last + 1);
  const servers: Server[] = [];
  // One after the other, each held until the last is found: so all are different.
  while (servers.length < count) {
    const server = await listen(choose());
    if (server !== undefined) servers.push(server);
  }
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Whether the kernel gives one of these ports to connections; where it does not say so, it gives higher ones. */
function isGiven(from: number, to: number): boolean {
  const [lowest, highest] = givenPorts() ?? [49_152, 65_535];
  return lowest <= to && highest >= from;
}

/** The lowest and the highest port that Linux gives to connections. */
export function givenPorts(): [number, number] | undefined {
  let text: string;
  try {
    text = readFileSync("/proc/sys/net/ipv4/ip_local_port_range", "utf8");
  } catch {
    return undefined;
  }
  const [lowest, highest] = text.trim().split(/\s+/).map(Number);
  return lowest === undefined || highest === undefined ? undefined : [lowest, highest];
}

/** @returns undefined if somebody has the port */
function listen(port: number): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EADDRINUSE") resolve(undefined);
      else reject(error);
    });
    server.listen({ port, host: "127.0.0.1" }, () => resolve(server));
  });
}
