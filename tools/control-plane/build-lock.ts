import { createHash } from "node:crypto";
import { connect, createServer, type Server } from "node:net";

/**
 * Runs `work` while no other process on this machine runs it for the same `key`. The lock is a listening socket in the
 * kernel's abstract namespace: it vanishes with its holder, however that ends, and those who wait hear it go.
 */
export async function withBuildLock<T>(
  key: string,
  onProgress: (line: string) => void,
  work: () => Promise<T>,
): Promise<T> {
  const address = `\0kllama-build-${createHash("sha256").update(key).digest("hex").slice(0, 32)}`;
  let held = await tryListen(address);
  if (held === undefined) onProgress("Another process is building the same: waiting for it.");
  while (held === undefined) {
    await untilReleased(address);
    held = await tryListen(address);
  }
  const { server, release } = held;
  try {
    return await work();
  } finally {
    await new Promise((resolve) => {
      server.close(resolve);
      release();
    });
  }
}

type Held = { readonly server: Server; readonly release: () => void };

function tryListen(address: string): Promise<Held | undefined> {
  return new Promise((resolve, reject) => {
    const waiting = new Set<{ destroy: () => void }>();
    const server = createServer((socket) => {
      waiting.add(socket);
      socket.once("error", () => {});
      socket.once("close", () => waiting.delete(socket));
    });
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? resolve(undefined) : reject(error),
    );
    server.listen(address, () =>
      resolve({
        server,
        release: () => {
          for (const socket of waiting) socket.destroy();
        },
      }),
    );
  });
}

/** Resolves when the holder closes its end, or is gone already. */
function untilReleased(address: string): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(address);
    socket.once("error", () => {});
    socket.once("close", () => resolve());
    socket.resume();
  });
}
