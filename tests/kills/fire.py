"""A program that is started again and again, and killed with `kill -9` at random moments."""
import os
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def started(*words):
    env = {**os.environ, "PYTHONPATH": ROOT}
    return subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def lines_of(folder):
    """What a batch has written there so far."""
    try:
        with open(os.path.join(folder, "out.jsonl"), "rb") as file:
            return file.read().splitlines(True)
    except FileNotFoundError:
        return []


class Fire:
    """Runs of `words` under fire; `seen` tells how many requests their server has had, `chance` draws the moments."""

    def __init__(self, words, seen, chance):
        self.words, self.seen, self.chance = words, seen, chance
        self.kills, self.wrong = 0, []

    def play(self, kills, left, before=lambda: None, after=lambda: None):
        """So many kills, while requests are left, and then in peace to the end.

        Between two kills are about as many requests as between the others.  `before` each run that is to be killed and
        `after` it somebody may look.
        """
        while self.kills < kills and not self.wrong:
            requests = left()
            if not requests:
                break
            before()
            self.shoot(requests // (kills - self.kills))
            after()
        with started(*self.words) as process:
            said = process.communicate()[1].decode()
        self.judge(process.returncode, said)

    def shoot(self, share):
        """A run that is killed when about its share of what is left is done, or soon after its start."""
        with started(*self.words) as process:
            if self.chance.random() < 0.25:
                time.sleep(self.chance.uniform(0, 0.5))
            else:
                enough = self.seen() + self.chance.randint(1, max(1, share))
                while self.seen() < enough and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(self.chance.uniform(0, 0.02))
            over = process.poll()
            process.kill()
            said = process.communicate()[1].decode()
        self.kills += over is None
        self.judge(over, said)

    def judge(self, code, said):
        """None: it was killed."""
        if code:
            self.wrong.append(f"a run ended with {code}: {said}")
