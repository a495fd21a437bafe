import { chmod, lstat, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { type Server, ServerCredentials } from "@grpc/grpc-js";
import { makeFolder } from "./folders.ts";
import { removeStale } from "./socket-files.ts";

/** A listening gRPC server. */
export interface UnixServer {
  readonly path: string;
  /** Its file is where it was made: nobody can connect otherwise. */
  isThere(): Promise<boolean>;
  /** Lets calls under way end for `graceMs` at most; the socket file goes first. */
  close(graceMs: number): Promise<void>;
}

/** `sun_path` of Linux has 108 bytes, one of which ends the text. */
const maxPathBytes = 107;

/**
 * Listens on a Unix socket that only this user may open: the file has mode 0600, a folder that is made here 0700. What
 * a killed process left at the path is removed; an Error says so if somebody answers there, or if the path is too long.
 */
export async function listenUnix(server: Server, path: string): Promise<UnixServer> {
  if (Buffer.byteLength(path) > maxPathBytes) {
    throw new Error(`socket ${path}: longer than ${maxPathBytes} bytes; use a shorter --kubelet-dir`);
  }
  await makeFolder(dirname(path), 0o700);
  await removeStale(path);
  await new Promise<void>((resolve, reject) =>
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(new Error(`socket ${path}: ${error.message}`)),
    ),
  );
  await chmod(path, 0o600);
  const { ino } = await lstat(path);
  return {
    path,
    isThere: () =>
      lstat(path).then(
        (now) => now.isSocket() && now.ino === ino,
        () => false,
      ),
    async close(graceMs) {
      await rm(path, { force: true });
      const timer = setTimeout(() => server.forceShutdown(), graceMs);
      await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      clearTimeout(timer);
    },
  };
}
