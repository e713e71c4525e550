"""How Push-T moves: one pymunk space with four walls, the pusher and the block, driven as gym-pusht drives it.

The pusher is kinematic: nothing stops it, not even a wall. A proportional-derivative controller of 100 Hz steers it towards the target of its
control step of 0.1 s. The table is viscous to the utmost (damping 0): what is not pushed stands still. Everything is added, placed and stepped in the
order of gym-pusht, because pymunk's results depend on it.

What pymunk remembers between two steps (impulses of contacts, corrections of overlaps, the order in which its search trees find contacts) cannot be
read or restored through its interface. Hence the two kinds of contacts in ``PushTOptions``.
"""

import functools

import numpy as np
import pymunk

from lewm.envs.push_t.geometry import BAR_SCALES, STEM_SCALES
from lewm.envs.push_t.layout import WALL_HIGH_PX, WALL_LOW_PX, WALL_RADIUS_PX, PushTOptions
from lewm.errors import EnvError

SUBSTEP_S = 0.01
NUM_SUBSTEPS = 10
POSITION_GAIN, VELOCITY_GAIN = 100.0, 20.0
BLOCK_MASS = 1.0
FIRST_AGENT_PX, FIRST_BLOCK_PX = (256.0, 400.0), (256.0, 300.0)
"""Where things are put before they are placed: pymunk's trees remember it."""
SUPPORTED_MAJORS = (6, 7)
"""Both are the same here to the last bit: measured with 6.6, 6.8, 6.11, 7.0 and 7.3 over 1,000 control steps. gym-pusht itself needs 6."""
CHECK_START = (np.array([190.0, 200.0]), np.array([256.0, 330.0]), 0.4)
CHECK_TARGET_PX, CHECK_CONTROL_STEPS = (230.0, 460.0), 8
CHECK_POSE = (281.3836703945001, 387.3145068610044, 0.31008989234889484)
"""Where a push that turns the block both ways leaves it: centre of mass and angle."""
CHECK_TOLERANCE = 1e-6
"""In px and rad: other processors may round otherwise."""
Moment = np.void | np.ndarray
"""One ``MOMENT``: an element of an array of them, or an array of no axes."""


@functools.cache
def check_pymunk() -> None:
    """``EnvError`` for a pymunk that pushes the block elsewhere than those that Push-T was made with: of another version, or with other physics."""
    advice = "pip install 'lewm[push-t]'"
    if int(pymunk.version.split(".")[0]) not in SUPPORTED_MAJORS:
        raise EnvError(f"Push-T needs pymunk 6 or 7 and {pymunk.version} is installed: {advice}")
    tabletop = Tabletop(PushTOptions().draw_layout(np.random.default_rng(0)))
    tabletop.start(*CHECK_START)
    for _ in range(CHECK_CONTROL_STEPS):
        tabletop.control(*CHECK_TARGET_PX)
    if not np.allclose(tabletop.block_pose, CHECK_POSE, rtol=0, atol=CHECK_TOLERANCE):
        found = tabletop.block_pose
        raise EnvError(
            f"pymunk {pymunk.version} has other physics than Push-T was made with: a push ends at {found} instead of {CHECK_POSE}; {advice}"
        )


class Tabletop:
    """A pymunk space with the measures of one moment; pusher and block wait to be placed."""

    def __init__(self, layout: Moment) -> None:
        low, high = WALL_LOW_PX, WALL_HIGH_PX
        friction, scale = float(layout["friction"]), float(layout["block_scale_px"])
        ends = (((low, high), (low, low)), ((low, low), (high, low)), ((high, low), (high, high)), ((low, high), (high, high)))
        self._ground = pymunk.Body(body_type=pymunk.Body.STATIC)
        self._walls = [pymunk.Segment(self._ground, first, second, WALL_RADIUS_PX) for first, second in ends]
        self._agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self._pusher = pymunk.Circle(self._agent, float(layout["agent_radius_px"]))
        bar, stem = (_rectangle(corners, scale) for corners in (BAR_SCALES, STEM_SCALES))
        # Both halves have the bar's moment of inertia in gym-pusht.
        self._block = pymunk.Body(BLOCK_MASS, 2 * pymunk.moment_for_poly(BLOCK_MASS, bar))
        self._halves = [pymunk.Poly(self._block, vertices) for vertices in (bar, stem)]
        self._block.center_of_gravity = (self._halves[0].center_of_gravity + self._halves[1].center_of_gravity) / 2
        for shape in (*self._walls, self._pusher):
            shape.friction = 1.0  # pymunk multiplies: what touches the block has the block's coefficient
        for half in self._halves:
            half.friction = friction
        self._space: pymunk.Space | None = None
        self.renew()

    def renew(self) -> None:
        """Put everything into a new space, as if it had just been made: nothing is moving, and no contact is remembered."""
        if self._space is not None:
            self._space.remove(self._ground, *self._walls, self._agent, self._pusher, self._block, *self._halves)
        self._space = pymunk.Space()
        self._space.damping = 0.0
        self._agent.position, self._agent.velocity = FIRST_AGENT_PX, (0.0, 0.0)
        self._block.angle, self._block.angular_velocity = 0.0, 0.0
        self._block.position, self._block.velocity = FIRST_BLOCK_PX, (0.0, 0.0)
        # A body also remembers how an overlap is to be corrected; a move of no duration uses that up.
        pymunk.Body.update_position(self._block, 0.0)
        self._space.add(self._ground, *self._walls)
        self._space.add(self._agent, self._pusher)
        self._space.add(self._block, *self._halves)

    def start(self, agent_px: np.ndarray, block_px: np.ndarray, block_rad: float) -> None:
        """As gym-pusht's reset does: the block is put down before it is turned, about its centre of mass, and the space steps once."""
        self._agent.position, self._block.position = _pair(agent_px), _pair(block_px)
        self._block.angle = float(block_rad)
        assert self._space is not None
        self._space.step(SUBSTEP_S)

    def place(self, moment: Moment) -> None:
        """Put pusher and block where a moment says, as fast as it says; only in a space that has not stepped yet is that all there is to know."""
        agent, block = self._agent, self._block
        agent.position, agent.velocity = _pair(moment["agent_px"]), _pair(moment["agent_velocity_px_s"])
        block.angle = float(moment["block_rad"])
        block.position, block.velocity = _pair(moment["block_px"]), _pair(moment["block_velocity_px_s"])
        block.angular_velocity = float(moment["block_velocity_rad_s"])

    def control(self, target_x: float, target_y: float) -> None:
        """One control step towards a target."""
        assert self._space is not None
        agent, step = self._agent, self._space.step
        for _ in range(NUM_SUBSTEPS):
            (x, y), (velocity_x, velocity_y) = agent.position, agent.velocity
            agent.velocity = (
                velocity_x + (POSITION_GAIN * (target_x - x) - VELOCITY_GAIN * velocity_x) * SUBSTEP_S,
                velocity_y + (POSITION_GAIN * (target_y - y) - VELOCITY_GAIN * velocity_y) * SUBSTEP_S,
            )
            step(SUBSTEP_S)

    @property
    def agent_px(self) -> tuple[float, float]:
        """Where the pusher is."""
        x, y = self._agent.position
        return x, y

    @property
    def block_pose(self) -> tuple[float, float, float]:
        """The block's centre of mass (x, y) and its angle."""
        x, y = self._block.local_to_world(self._block.center_of_gravity)
        return x, y, self._block.angle

    def write_to(self, moment: Moment) -> None:
        """Write poses and velocities into a moment."""
        agent, block = self._agent, self._block
        moment["agent_px"], moment["agent_velocity_px_s"] = agent.position, agent.velocity
        moment["block_px"], moment["block_rad"] = block.position, block.angle
        moment["block_velocity_px_s"], moment["block_velocity_rad_s"] = block.velocity, block.angular_velocity


def _rectangle(corners_scales: tuple[tuple[float, float], tuple[float, float]], scale: float) -> list[tuple[float, float]]:
    (x_low, y_low), (x_high, y_high) = corners_scales
    return [(x_low * scale, y_high * scale), (x_high * scale, y_high * scale), (x_high * scale, y_low * scale), (x_low * scale, y_low * scale)]


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
