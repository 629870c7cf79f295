"""Metrics of scientific machine learning, with their units, formulas and sources.

Each class is what one kind of experiment measures at one step. Give the fields that were
measured; `to_dict` names them for the history. The formulas say what a field means wherever
two runs are compared: who measures otherwise compares only with runs that do the same.
"""

from dataclasses import MISSING, dataclass, fields
from typing import ClassVar, SupportsFloat, TypeAlias

from experiment_tracking.errors import InvalidTypeError

Scalar: TypeAlias = SupportsFloat
"""A number or boolean, or a numpy, torch or jax scalar; NaN and infinity are measurements too."""


@dataclass
class PhysicsMetrics:
    """Base of the physics metrics; derive from it for a domain of your own.

    A field without a default is required, one with the default None may be left out.

    Examples
    --------
    >>> @dataclass
    ... class VQEMetrics(PhysicsMetrics):
    ...     prefix: ClassVar[str] = "vqe"
    ...     energy_error: float
    ...     fidelity: float | None = None
    >>> VQEMetrics(energy_error=1.6e-3).to_dict()
    {'vqe/energy_error': 0.0016}
    """

    prefix: ClassVar[str]
    """Group of the names, ``"pinn"`` in ``pinn/pde_residual``."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.default is MISSING and getattr(self, field.name) is None:
                raise InvalidTypeError(
                    f"{type(self).__name__}: {field.name} is None, but it is required. "
                    "Give a number; NaN says that it could not be computed."
                )

    def to_dict(self, prefix: str | None = None) -> dict[str, Scalar]:
        """Return the measured values, unchanged, under flat names such as ``pinn/pde_residual``.

        A field that is None was not measured and is left out.

        Parameters
        ----------
        prefix
            Stands in place of the class's own prefix; ``""`` gives bare field names.

        Examples
        --------
        >>> metrics = L2OMetrics(0.9, 0.5, 0.6, optimization_steps=100)
        >>> list(metrics.to_dict(prefix="val"))
        ['val/meta_loss', 'val/inner_loss', 'val/outer_loss', 'val/optimization_steps']
        """
        group = self.prefix if prefix is None else prefix
        start = f"{group}/" if group else ""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {start + name: value for name, value in values if value is not None}


@dataclass
class PINNMetrics(PhysicsMetrics):
    """Measure a physics-informed neural network u_θ for u_t + N[u] = 0 on Ω × [0, T].

    Attributes
    ----------
    pde_residual
        How far u_θ is from solving the equation inside the domain.
        Unit: that of the equation's terms, squared.
        Formula: MSE_f = 1/N_f Σ_i |f(t_i, x_i)|², f = ∂u_θ/∂t + N[u_θ], at N_f collocation points.
        Source: [1], section 3.1.
    bc_violation
        How far u_θ is from the boundary condition B[u] = g on ∂Ω.
        Unit: that of g, squared.
        Formula: MSE_b = 1/N_b Σ_i |B[u_θ](t_i, x_i) - g(t_i, x_i)|², x_i on ∂Ω.
        Source: [1], section 3.1.1 (there for periodic boundaries).
    ic_violation
        How far u_θ is from the initial state u_0.
        Unit: that of u, squared.
        Formula: MSE_0 = 1/N_0 Σ_i |u_θ(0, x_i) - u_0(x_i)|².
        Source: [1], section 3.1.1.
    total_loss
        What the optimizer minimises.
        Unit: none, a weighted sum.
        Formula: λ_f MSE_f + λ_b MSE_b + λ_0 MSE_0 (+ λ_u MSE_u).
        Source: [1], section 3.1.1, with all λ = 1; [2] for weights adapted in training.
    data_loss
        How far u_θ is from measured values of u inside the domain; None without such data.
        Unit: that of u, squared.
        Formula: MSE_u = 1/N_u Σ_i |u_θ(t_i, x_i) - u_i|².
        Source: [1], section 3.1.
    gradient_norm
        Length of the loss's gradient in the parameters.
        Unit: that of the loss over that of the parameters.
        Formula: ‖∇_θ total_loss‖₂ over all parameters, before any clipping.
        Source: definition; [2] for what its parts tell about training.

    References
    ----------
    [1] M. Raissi, P. Perdikaris, G. E. Karniadakis, "Physics-informed neural networks", Journal
    of Computational Physics 378 (2019), 686-707.
    [2] S. Wang, Y. Teng, P. Perdikaris, "Understanding and mitigating gradient flow pathologies
    in physics-informed neural networks", SIAM Journal on Scientific Computing 43 (2021),
    A3055-A3081.

    Examples
    --------
    >>> metrics = PINNMetrics(2e-4, bc_violation=0.0, ic_violation=1e-5, total_loss=0.04)
    >>> metrics.to_dict()["pinn/pde_residual"]
    0.0002
    """

    prefix: ClassVar[str] = "pinn"

    pde_residual: Scalar
    bc_violation: Scalar
    ic_violation: Scalar
    total_loss: Scalar
    data_loss: Scalar | None = None
    gradient_norm: Scalar | None = None


@dataclass
class NeuralOperatorMetrics(PhysicsMetrics):
    """Measure a neural operator G_θ that approximates G: a ↦ u between function spaces.

    Below, û = G_θ(a) is the prediction and u = G(a) the reference, both on the same n grid
    points x_j; E is the mean over the inputs a of the test set.

    Attributes
    ----------
    operator_error
        Distance of G_θ from G in the norm of the output space U.
        Unit: that of ‖u‖, squared.
        Formula: E ‖û - u‖²_U, the empirical risk.
        Source: [1], the learning problem in section 2.
    pointwise_error
        Typical error at one grid point.
        Unit: that of u.
        Formula: E √(1/n Σ_j |û(x_j) - u(x_j)|²).
        Source: [2], RMSE.
    conservation_error
        Error in the conserved total, such as mass or energy.
        Unit: that of u.
        Formula: 1/n √(E |Σ_j û(x_j) - Σ_j u(x_j)|²).
        Source: [2], cRMSE.
    stability_metric
        Growth of the error per step when G_θ is applied T times to its own output; 1 or less is
        stable, more grows without bound.
        Unit: none, a ratio.
        Formula: (e_T / e_1)^(1/(T-1)), e_t the relative L2 error after t steps.
        Source: definition, a mean growth factor; [3] for the problem it measures.
    relative_l2
        Error relative to the size of the reference.
        Unit: none, a ratio (0.01 is one per cent).
        Formula: E [‖û - u‖₂ / ‖u‖₂], the ratio taken for each input before the mean.
        Source: [4], the relative error of section 5; [1], the relative L2 error of its experiments.
    spectral_error
        Error over the wave numbers, where smooth predictions lose their fine scales.
        Unit: that of u.
        Formula: 1/K Σ_k √(E |F[û - u](k)|²) / n, F the discrete Fourier transform, over K wave
        numbers.
        Source: [2], fRMSE, taken over all bands.

    References
    ----------
    [1] N. Kovachki, Z. Li, B. Liu, K. Azizzadenesheli, K. Bhattacharya, A. Stuart, A. Anandkumar,
    "Neural operator: learning maps between function spaces with applications to PDEs", Journal of
    Machine Learning Research 24 (2023), no. 89.
    [2] M. Takamoto et al., "PDEBench: an extensive benchmark for scientific machine learning",
    NeurIPS Datasets and Benchmarks (2022); the formulas are those of its ``metrics.py``.
    [3] M. McCabe, P. Harrington, S. Subramanian, J. Brown, "Towards stability of autoregressive
    neural operators", Transactions on Machine Learning Research (2023).
    [4] Z. Li et al., "Fourier neural operator for parametric partial differential equations",
    ICLR (2021).

    Examples
    --------
    >>> NeuralOperatorMetrics(operator_error=0.012, pointwise_error=0.034).to_dict()
    {'operator/operator_error': 0.012, 'operator/pointwise_error': 0.034}
    """

    prefix: ClassVar[str] = "operator"

    operator_error: Scalar
    pointwise_error: Scalar
    conservation_error: Scalar | None = None
    stability_metric: Scalar | None = None
    relative_l2: Scalar | None = None
    spectral_error: Scalar | None = None


@dataclass
class L2OMetrics(PhysicsMetrics):
    """Measure an optimizer m_φ that has learned to minimise functions f(θ) (learning to optimise).

    Below, θ_0 … θ_T are the iterates that m_φ makes on one f, and E is the mean over the f.

    Attributes
    ----------
    meta_loss
        What the training of φ minimises.
        Unit: that of f.
        Formula: L(φ) = E Σ_t w_t f(θ_t), with weights w_t ≥ 0, often all 1.
        Source: [1], section 2.
    inner_loss
        What the inner loop has reached on the data it optimises.
        Unit: that of f.
        Formula: E f(θ_T).
        Source: [1], section 2.
    outer_loss
        The same iterate on data that the inner loop has not seen.
        Unit: that of f.
        Formula: E f_held-out(θ_T).
        Source: [2], the meta-objective, evaluated after adaptation.
    optimization_steps
        Length of the inner loop.
        Unit: steps, a count.
        Formula: T.
        Source: [1], section 2.
    convergence_rate
        Factor by which one step reduces the distance from the optimum; smaller is faster, below
        1 converges.
        Unit: none, a ratio.
        Formula: E [((f(θ_T) - f*) / (f(θ_0) - f*))^(1/T)], f* the optimum or its best known bound.
        Source: the mean of the ratios that define linear convergence, [3], appendix A.2.
    final_accuracy
        Share of right answers that the optimised model gives on held-out data.
        Unit: none, 0 to 1.
        Formula: right answers / all answers, at θ_T.
        Source: definition.

    References
    ----------
    [1] M. Andrychowicz et al., "Learning to learn by gradient descent by gradient descent",
    NeurIPS (2016).
    [2] C. Finn, P. Abbeel, S. Levine, "Model-agnostic meta-learning for fast adaptation of deep
    networks", ICML (2017).
    [3] J. Nocedal, S. J. Wright, "Numerical optimization", 2nd edition, Springer (2006).

    Examples
    --------
    >>> L2OMetrics(0.9, 0.5, 0.6, optimization_steps=100).to_dict()["l2o/optimization_steps"]
    100
    """

    prefix: ClassVar[str] = "l2o"

    meta_loss: Scalar
    inner_loss: Scalar
    outer_loss: Scalar
    optimization_steps: Scalar
    convergence_rate: Scalar | None = None
    final_accuracy: Scalar | None = None


@dataclass
class NeuralDFTMetrics(PhysicsMetrics):
    """Measure a density functional theory calculation with learned parts.

    Units are atomic: 1 hartree is 27.2114 eV or 627.509 kcal/mol, so chemical accuracy
    (1 kcal/mol) is 0.00159 hartree; 1 hartree/bohr is 51.4221 eV/Å. Below, ref is the reference
    calculation or experiment.

    Attributes
    ----------
    total_energy_error
        Error of the ground-state energy.
        Unit: hartree.
        Formula: |E - E_ref|, its mean over several systems.
        Source: [1] for E as a functional of the density; [2] for learned functionals judged by it.
    density_error
        Electrons in the wrong place, for each electron.
        Unit: none, a ratio (0.01 is one per cent).
        Formula: ∫ |n(r) - n_ref(r)| dr / ∫ n_ref(r) dr.
        Source: [3]; [1] for the density n(r) = Σ_i |ψ_i(r)|².
    xc_energy_error
        Error of the exchange-correlation energy, the part of E that must be approximated.
        Unit: hartree.
        Formula: |E_xc[n] - E_xc,ref|, its mean over several systems.
        Source: [1] for E_xc; [2] for a learned E_xc.
    scf_iterations
        Self-consistent cycles, density to potential to density, until convergence or the limit.
        Unit: cycles, a count.
        Formula: k at the last cycle.
        Source: [1], the self-consistent solution of its equations.
    convergence_achieved
        Whether the cycles ended by convergence; its mean over systems is the share that did.
        Unit: none, a boolean, 1 or 0 in the history.
        Formula: |E_k - E_(k-1)| < tolerance before the limit of cycles; programs add criteria.
        Source: the program that ran the cycles, e.g. ``conv_tol`` of PySCF [4].
    forces_mae
        Error of the forces on the nuclei, by component.
        Unit: hartree/bohr.
        Formula: 1/(3 N) Σ_A Σ_α |F_Aα - F_Aα,ref| over N nuclei A and α = x, y, z;
        F_A = -∂E/∂R_A.
        Source: definition, as in [5].

    References
    ----------
    [1] W. Kohn, L. J. Sham, "Self-consistent equations including exchange and correlation
    effects", Physical Review 140 (1965), A1133-A1138.
    [2] J. Kirkpatrick et al., "Pushing the frontiers of density functionals by solving the
    fractional electron problem" (DM21), Science 374 (2021), 1385-1389.
    [3] P. B. Jørgensen, A. Bhowmik, "Equivariant graph neural networks for fast electron density
    estimation of molecules, liquids, and solids", npj Computational Materials 8 (2022), 183.
    [4] Q. Sun et al., "Recent developments in the PySCF program package", Journal of Chemical
    Physics 153 (2020), 024109.
    [5] S. Chmiela et al., "Machine learning of accurate energy-conserving molecular force fields",
    Science Advances 3 (2017), e1603015.

    Examples
    --------
    >>> metrics = NeuralDFTMetrics(1.2e-3, 4e-3, 8e-4, 14, convergence_achieved=True)
    >>> metrics.to_dict()["dft/convergence_achieved"]
    True
    """

    prefix: ClassVar[str] = "dft"

    total_energy_error: Scalar
    density_error: Scalar
    xc_energy_error: Scalar
    scf_iterations: Scalar
    convergence_achieved: Scalar
    forces_mae: Scalar | None = None
