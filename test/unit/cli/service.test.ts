import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { afterEach, expect, test } from "vitest";

const fixture = fileURLToPath(new URL("service-fixture.ts", import.meta.url));

const started: ChildProcess[] = [];
afterEach(() => {
  for (const child of started.splice(0)) child.kill("SIGKILL");
});

function start(behaviour: string) {
  const child = fork(fixture, [behaviour], { stdio: ["ignore", "ignore", "pipe", "ipc"], execArgv: [] });
  started.push(child);
  let log = "";
  const waiting = new Set<() => void>();
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    log += text;
    for (const look of waiting) look();
  });
  // `close` does not come after `disconnect()`.
  const allLogged = new Promise((done) => child.stderr!.once("end", done));
  const ended = new Promise<number | null>((done) =>
    child.once("exit", (code) => void allLogged.then(() => done(code))),
  );
  return {
    child,
    log: () => log,
    ready: new Promise<unknown>((done) => child.once("message", done)),
    ended,
    logs: (text: string) =>
      new Promise<void>((done, fail) => {
        const look = (): void => {
          if (log.includes(text)) done();
        };
        waiting.add(look);
        look();
        void ended.then((code) => fail(new Error(`ended with ${code} before it logged ${text}:\n${log}`)));
      }),
  };
}

test("tells its parent when it is ready, stops in order at a signal", async () => {
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    const service = start("runs");
    expect(await service.ready).toBe("ready");
    service.child.kill(signal);
    expect(await service.ended, service.log()).toBe(0);
    expect(service.log()).toContain(`"reason":"${signal}"`);
    expect(service.log()).toContain("stop was called");
  }
});

test("stops when its parent is gone", async () => {
  const service = start("runs");
  await service.ready;
  service.child.disconnect();
  expect(await service.ended, service.log()).toBe(0);
  expect(service.log()).toContain("the parent process is gone");
  expect(service.log()).toContain("stop was called");
});

test("stops when its parent is gone before it has started", async () => {
  const service = start("never-starts");
  service.child.disconnect();
  expect(await service.ended, service.log()).toBe(0);
});

test("exits with 1 and says so when it cannot go on, after it has stopped", async () => {
  const service = start("loses");
  expect(await service.ended).toBe(1);
  expect(service.log()).toMatch(/"level":60,.*the Lease was lost/);
  expect(service.log()).toContain("stop was called");
});

test("exits with 1 when it never becomes ready", async () => {
  const service = start("never-ready");
  expect(await service.ended).toBe(1);
  expect(service.log()).toMatch(/"level":60,.*cannot list/);
});

test("what fails because it is being stopped is no fault", async () => {
  const service = start("syncs");
  await service.logs("syncing");
  service.child.kill("SIGTERM");
  expect(await service.ended).toBe(0);
  expect(service.log()).not.toContain("before the first sync");
});

test("a start that fails is the caller's error", async () => {
  const service = start("cannot-start");
  expect(await service.ended).toBe(1);
  expect(service.log()).toContain("no API server");
});

test("a later signal ends a stop that hangs, one that comes at once does not count", async () => {
  const service = start("hangs");
  await service.ready;
  // However busy the machine is, both are there when it goes on.
  for (const signal of ["SIGSTOP", "SIGINT", "SIGTERM", "SIGCONT"] as const) service.child.kill(signal);
  await service.logs("stop was called");
  const again = setInterval(() => service.child.kill("SIGINT"), 100);
  expect(await service.ended).toBe(1);
  clearInterval(again);
  expect(service.log()).not.toContain("stopping takes too long");
});
